{{- /*
A value as YAML in which a variable cannot change its type: `"${NAME:}"` remains text for any value of
NAME. This is needed because Helm drops the quotes that the operator wrote. Whole numbers remain whole.
*/ -}}
{{- define "meterline.yaml" -}}
{{- $lines := list -}}
{{- if and (kindIs "map" .) . -}}
{{- range $key, $value := . -}}
{{- $filled := and (or (kindIs "map" $value) (kindIs "slice" $value)) $value -}}
{{- $text := include "meterline.yaml" $value -}}
{{- $lines = append $lines (printf "%s:%s" (toYaml $key) (ternary (printf "\n%s" (indent 2 $text)) (printf " %s" $text) (not (empty $filled)))) -}}
{{- end -}}
{{- else if and (kindIs "slice" .) . -}}
{{- range . -}}
{{- $filled := and (or (kindIs "map" .) (kindIs "slice" .)) . -}}
{{- $text := include "meterline.yaml" . -}}
{{- $lines = append $lines (printf "- %s" (ternary (indent 2 $text | trimPrefix "  ") $text (not (empty $filled)))) -}}
{{- end -}}
{{- else -}}
{{- $lines = append $lines (include "meterline.scalar" .) -}}
{{- end -}}
{{- join "\n" $lines -}}
{{- end -}}

{{- define "meterline.scalar" -}}
{{- if not (kindIs "string" .) -}}
{{- if kindIs "float64" . -}}{{- include "meterline.text" . -}}{{- else -}}{{- toYaml . -}}{{- end -}}
{{- else if or (contains "\n" .) (not (contains "${" .)) (ne . (toYaml .)) -}}
{{- toYaml . -}}
{{- else if not (or (contains "\"" .) (contains "\\" .)) -}}
"{{ . }}"
{{- else -}}
'{{ replace "'" "''" . }}'
{{- end -}}
{{- end -}}

{{- /* A scalar as text. Numbers of a values file are floats, and must not be written as 1e+06. */ -}}
{{- define "meterline.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{- printf "%.0f" . -}}{{- else -}}{{- toString . -}}{{- end -}}
{{- end -}}
