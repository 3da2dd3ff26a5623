{{- define "meterline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* At most 52 characters, because a label of a StatefulSet's pods appends a hash of 11. */ -}}
{{- define "meterline.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "meterline.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "meterline.selectorLabels" -}}
app.kubernetes.io/name: {{ include "meterline.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "meterline.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "meterline.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "meterline.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "meterline.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "meterline.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- /* The Secret with the token; empty if there is no token. */ -}}
{{- define "meterline.secretName" -}}
{{- if .Values.openmeter.existingSecret -}}
{{- .Values.openmeter.existingSecret -}}
{{- else if .Values.openmeter.token -}}
{{- include "meterline.fullname" . -}}
{{- end -}}
{{- end -}}

{{- define "meterline.secretKey" -}}
{{- ternary .Values.openmeter.existingSecretKey "token" (not (empty .Values.openmeter.existingSecret)) -}}
{{- end -}}

{{- /* The operator's labels and the chart's, as YAML. Takes root, own (takes precedence) and ours. */ -}}
{{- define "meterline.merged" -}}
{{- toYaml (merge (dict) (default dict .own) (.ours | fromYaml)) -}}
{{- end -}}

{{- /* The port of the HTTP endpoints; empty if the configuration has none. */ -}}
{{- define "meterline.port" -}}
{{- $http := default dict (default dict .Values.config).http -}}
{{- if ne (toString $http.enabled) "false" -}}
{{- $address := include "meterline.interpolated" (dict "root" . "text" (default "0.0.0.0:4195" $http.address)) -}}
{{- if regexMatch "^(127\\.|localhost|\\[::1\\])" $address -}}
{{- fail (printf "config.http.address is %s, which the probes and the Service do not reach: leave it out, or listen on 0.0.0.0" $address) -}}
{{- end -}}
{{- default "4195" (regexFind "[0-9]+$" $address) -}}
{{- end -}}
{{- end -}}

{{- /* Reports invalid values before anything is rendered. */ -}}
{{- define "meterline.check" -}}
{{- if not (or .Values.config .Values.configFile .Values.preset) -}}
{{- fail "nothing to meter is configured: set `preset` (such as kubernetes-pod-exec-time), `config` (an object) or `configFile` (a path from volumeMounts)" -}}
{{- end -}}
{{- if and (gt (int .Values.replicaCount) 1) (not .Values.leaderElection.enabled) -}}
{{- fail "replicaCount is more than 1, and each replica would bill: set leaderElection.enabled=true" -}}
{{- end -}}
{{- if and .Values.openmeter.token .Values.openmeter.existingSecret -}}
{{- fail "set openmeter.token or openmeter.existingSecret, not both; with --reset-then-reuse-values remove the former by --set openmeter.token=" -}}
{{- end -}}
{{- if and .Values.configFile (not .Values.config) (not .Values.volumeMounts) -}}
{{- fail "configFile names a file that no volume contains: set volumes and volumeMounts" -}}
{{- end -}}
{{- if regexMatch "^[0-9]" (include "meterline.fullname" .) -}}
{{- fail (printf "the name %s begins with a digit, which a Service's name must not: set fullnameOverride" (include "meterline.fullname" .)) -}}
{{- end -}}
{{- range $name := concat (keys (default dict .Values.env)) (include "meterline.ownNames" . | fromJsonArray) -}}
{{- if eq $name "LEADER_ELECTION" -}}
{{- fail "LEADER_ELECTION is set by leaderElection.enabled, which also grants what it needs: use that" -}}
{{- end -}}
{{- end -}}
{{- if and (not (include "meterline.port" .)) (or .Values.serviceMonitor.enabled .Values.podMonitor.enabled) -}}
{{- fail "config.http.enabled is false, so there are no metrics for serviceMonitor and podMonitor" -}}
{{- end -}}
{{- $timeout := toString (default "20s" (default dict .Values.config).shutdown_timeout) -}}
{{- if and (regexMatch "^[0-9]+s$" $timeout) (ge (trimSuffix "s" $timeout | int) (int .Values.terminationGracePeriodSeconds)) -}}
{{- fail (printf "terminationGracePeriodSeconds must be longer than shutdown_timeout, which is %s" $timeout) -}}
{{- end -}}
{{- if and (include "meterline.secretName" .) (include "meterline.tokenInHeaders" .Values.config) -}}
{{- fail "http_client uses OPENMETER_TOKEN, which is the URL of a file that only the output openmeter reads: give http_client a variable of its own by envVars with a secretKeyRef" -}}
{{- end -}}
{{- end -}}

{{- /* Names of envVars, as JSON. */ -}}
{{- define "meterline.ownNames" -}}
{{- $names := list -}}
{{- range .Values.envVars -}}{{- $names = append $names .name -}}{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{- /* "true" if an http_client uses the variable OPENMETER_TOKEN. */ -}}
{{- define "meterline.tokenInHeaders" -}}
{{- if kindIs "map" . -}}
{{- range $key, $value := . -}}
{{- if eq $key "http_client" -}}
{{- if regexMatch "\\$\\{OPENMETER_TOKEN[}:-]" (toJson $value) -}}true{{- end -}}
{{- else -}}
{{- include "meterline.tokenInHeaders" $value -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" . -}}
{{- range . -}}{{- include "meterline.tokenInHeaders" . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The name of the Lease that the replicas use. */ -}}
{{- define "meterline.leaseName" -}}
{{- (include "meterline.variable" (dict "root" . "name" "LEASE_LOCK_NAME") | fromJson).value -}}
{{- end -}}

{{- define "meterline.leaseNamespace" -}}
{{- (include "meterline.variable" (dict "root" . "name" "LEASE_LOCK_NAMESPACE") | fromJson).value | default .Release.Namespace -}}
{{- end -}}
