{{- define "meterline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* 52 characters: a StatefulSet's pods carry a hash of 11 in a label. */ -}}
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
app.kubernetes.io/name: {{ include "meterline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
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

{{- /* The Secret with the token; nothing when there is none. */ -}}
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

{{- /* What cannot be right, said before anything is made. */ -}}
{{- define "meterline.check" -}}
{{- if not (or .Values.config .Values.configFile .Values.preset) -}}
{{- fail "say what to meter: set `preset` (such as kubernetes-pod-exec-time), `config` (an object) or `configFile` (a path from volumeMounts)" -}}
{{- end -}}
{{- if and (gt (int .Values.replicaCount) 1) (not .Values.leaderElection.enabled) -}}
{{- fail "replicaCount is more than 1, and each replica would bill: set leaderElection.enabled=true" -}}
{{- end -}}
{{- if and .Values.openmeter.token .Values.openmeter.existingSecret -}}
{{- fail "set openmeter.token or openmeter.existingSecret, not both" -}}
{{- end -}}
{{- if and .Values.configFile (not .Values.config) (not .Values.volumeMounts) -}}
{{- fail "configFile names a file that no volume brings: set volumes and volumeMounts" -}}
{{- end -}}
{{- end -}}
