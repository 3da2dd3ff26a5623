{{- /*
The container's variables: those of the chart, then env, then envVars. Each name occurs once, because the
API server warns of duplicates; the operator's value takes precedence.
*/ -}}
{{- define "meterline.env" -}}
{{- $chart := list -}}
{{- $chart = append $chart (dict "name" "OPENMETER_URL" "value" .Values.openmeter.url) -}}
{{- if include "meterline.secretName" . -}}
{{- $chart = append $chart (dict "name" "OPENMETER_TOKEN" "value" "file:///etc/meterline/secret/token") -}}
{{- end -}}
{{- if .Values.clusterName -}}
{{- $chart = append $chart (dict "name" "CLUSTER_NAME" "value" .Values.clusterName) -}}
{{- end -}}
{{- if .Values.scrape.namespaces -}}
{{- $chart = append $chart (dict "name" "SCRAPE_NAMESPACE" "value" (join "," .Values.scrape.namespaces)) -}}
{{- end -}}
{{- if .Values.storage.enabled -}}
{{- $chart = append $chart (dict "name" "STATE_PATH" "value" (printf "%s/state.sqlite" (trimSuffix "/" .Values.storage.mountPath))) -}}
{{- end -}}
{{- if .Values.caRootCertificates -}}
{{- /* The image's own bundle, and the certificates of the chart in addition. */ -}}
{{- $chart = append $chart (dict "name" "SSL_CERT_FILE" "value" "/etc/ssl/certs/ca-certificates.crt") -}}
{{- $chart = append $chart (dict "name" "SSL_CERT_DIR" "value" "/etc/meterline/ca") -}}
{{- end -}}
{{- if .Values.leaderElection.enabled -}}
{{- $lease := .Values.leaderElection.lease -}}
{{- $chart = append $chart (dict "name" "LEADER_ELECTION" "value" "true") -}}
{{- $chart = append $chart (dict "name" "LEASE_LOCK_NAME" "value" (include "meterline.fullname" .)) -}}
{{- $chart = append $chart (dict "name" "LEASE_DURATION" "value" $lease.duration) -}}
{{- $chart = append $chart (dict "name" "LEASE_RENEW_DEADLINE" "value" $lease.renewDeadline) -}}
{{- $chart = append $chart (dict "name" "LEASE_RETRY_PERIOD" "value" $lease.retryPeriod) -}}
{{- end -}}
{{- range $name, $path := dict "K8S_NAMESPACE" "metadata.namespace" "K8S_POD_NAME" "metadata.name" "K8S_APP_INSTANCE" "metadata.labels['app.kubernetes.io/instance']" -}}
{{- $chart = append $chart (dict "name" $name "valueFrom" (dict "fieldRef" (dict "fieldPath" $path))) -}}
{{- end -}}
{{- $env := default dict .Values.env -}}
{{- $own := include "meterline.ownNames" . | fromJsonArray -}}
{{- if not (or .Values.config .Values.configFile .Values.envFrom (has "BATCH_SIZE" $own) (hasKey $env "BATCH_SIZE")) -}}
{{- /* With few pods, the first events then arrive soon and not only when there are twenty. It is not set
if the operator sets the size. */ -}}
{{- $chart = append $chart (dict "name" "BATCH_PERIOD" "value" "10s") -}}
{{- end -}}
{{- $variables := list -}}
{{- range $chart -}}
{{- if not (or (has .name $own) (hasKey $env .name)) -}}{{- $variables = append $variables . -}}{{- end -}}
{{- end -}}
{{- range $name, $value := $env -}}
{{- if not (has $name $own) -}}
{{- $variables = append $variables (dict "name" $name "value" (include "meterline.text" $value)) -}}
{{- end -}}
{{- end -}}
{{- range .Values.envVars -}}{{- $variables = append $variables . -}}{{- end -}}
{{- toYaml $variables -}}
{{- end -}}

{{- define "meterline.volumeMounts" -}}
{{- $mounts := list -}}
{{- if .Values.config -}}
{{- $mounts = append $mounts (dict "name" "meterline-config" "mountPath" "/etc/meterline/config" "readOnly" true) -}}
{{- end -}}
{{- if include "meterline.secretName" . -}}
{{- $mounts = append $mounts (dict "name" "meterline-token" "mountPath" "/etc/meterline/secret" "readOnly" true) -}}
{{- end -}}
{{- if .Values.caRootCertificates -}}
{{- $mounts = append $mounts (dict "name" "meterline-ca" "mountPath" "/etc/meterline/ca" "readOnly" true) -}}
{{- end -}}
{{- if .Values.storage.enabled -}}
{{- $mounts = append $mounts (dict "name" "storage" "mountPath" .Values.storage.mountPath) -}}
{{- end -}}
{{- range .Values.volumeMounts -}}{{- $mounts = append $mounts . -}}{{- end -}}
{{- if $mounts -}}{{- toYaml $mounts -}}{{- end -}}
{{- end -}}

{{- define "meterline.volumes" -}}
{{- $name := include "meterline.fullname" . -}}
{{- $volumes := list -}}
{{- if .Values.config -}}
{{- $volumes = append $volumes (dict "name" "meterline-config" "configMap" (dict "name" $name)) -}}
{{- end -}}
{{- if include "meterline.secretName" . -}}
{{- $items := list (dict "key" (include "meterline.secretKey" .) "path" "token") -}}
{{- $volumes = append $volumes (dict "name" "meterline-token" "secret" (dict "secretName" (include "meterline.secretName" .) "items" $items)) -}}
{{- end -}}
{{- if .Values.caRootCertificates -}}
{{- $volumes = append $volumes (dict "name" "meterline-ca" "configMap" (dict "name" (printf "%s-ca" $name))) -}}
{{- end -}}
{{- range .Values.volumes -}}{{- $volumes = append $volumes . -}}{{- end -}}
{{- if $volumes -}}{{- toYaml $volumes -}}{{- end -}}
{{- end -}}
