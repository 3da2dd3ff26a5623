#!/usr/bin/env python3
"""servers.py CERTIFICATE KEY LOG: a name server and an ingest API for image/check.sh.

Both listen on the loopback interface of the network namespace that the check runs in, which is why
port 53 is free, and write what they are asked to LOG. Every name ending in .test is 127.0.0.1 to
the name server.
"""

import fcntl
import http.server
import json
import socket
import ssl
import struct
import sys
import threading

certificate, key, log_path = sys.argv[1:]
log_file = open(log_path, "a", buffering=1, encoding="utf-8")


def raise_loopback() -> None:
    """`ip link set lo up`, for machines without iproute2."""
    siocsifflags, iff_up = 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        fcntl.ioctl(it, siocsifflags, struct.pack("16sH14s", b"lo", iff_up, b""))


def serve_names(server: socket.socket) -> None:
    while True:
        query, sender = server.recvfrom(512)
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question, kind = query[12 : at + 5], struct.unpack(">H", query[at + 1 : at + 3])[0]
        name = ".".join(labels)
        log_file.write(f"dns {name} {kind}\n")
        known = name.endswith(".test")
        answers = known and kind == 1
        flags = 0x8180 if known else 0x8183
        reply = query[:2] + struct.pack(">HHHHH", flags, 1, int(answers), 0, 0) + question
        if answers:
            reply += struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + bytes([127, 0, 0, 1])
        server.sendto(reply, sender)


class Ingest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        events = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for event in events if isinstance(events, list) else [events]:
            log_file.write(f"event {self.headers['host']} {event['type']} {event['id']}\n")
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        # A client that does not trust the certificate disconnects; that is part of the check.
        log_file.write(f"refused {sys.exc_info()[1]}\n")


raise_loopback()
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
threading.Thread(target=serve_names, args=[names], daemon=True).start()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
ingest = Server(("127.0.0.1", 443), Ingest)
ingest.socket = context.wrap_socket(ingest.socket, server_side=True, do_handshake_on_connect=False)
log_file.write("listening\n")
ingest.serve_forever()
