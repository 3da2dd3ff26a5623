# syntax=docker/dockerfile:1
#
# The image of Meterline: the root filesystem that image/assemble.sh creates, and nothing else. docs/image.md
# describes its contents.
#
#   docker build --tag meterline .
#   docker buildx build --platform linux/amd64,linux/arm64 --tag REGISTRY/meterline:VERSION --push .
#
# Each platform is built by its own compiler: natively if the builder has a node of that platform, else
# under emulation, which works but takes about ten times as long.
#
# The base image is used only for the build; glibc and the CA bundle are copied from it. It is set by tag, so
# that a new build includes their fixes. To get the same bytes again, set a digest:
#   --build-arg RUST=rust:1.95-bookworm@sha256:…
ARG RUST=rust:1.95-bookworm

FROM ${RUST} AS build
WORKDIR /src
# The tools have their own layer, because they change less often than the sources.
COPY image/tools.sh image/tools.sh
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    image/tools.sh /opt/tools
ENV PATH=/opt/tools/bin:$PATH
COPY . .
ARG TARGETPLATFORM
ARG SOURCE_DATE_EPOCH=0
# One cache of compiled dependencies for each platform; cargo itself locks the downloads that they share.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target,id=target-${TARGETPLATFORM},sharing=locked \
    CARGO_TARGET_DIR=/target image/assemble.sh /rootfs

FROM scratch
LABEL org.opencontainers.image.title="meterline" \
    org.opencontainers.image.description="Exact Kubernetes usage metering for OpenMeter and Konnect Metering & Billing" \
    org.opencontainers.image.licenses="Apache-2.0"
# Owners and modes are those of the stage.
COPY --from=build /rootfs /
USER 65532:65532
WORKDIR /etc/meterline
EXPOSE 4195
ENTRYPOINT ["/usr/bin/meterline"]
