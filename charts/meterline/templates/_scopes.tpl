{{- /*
What the configuration reads of the cluster, so that exactly this is granted. It is worked out as the
program does: every `kubernetes_resources`, its namespaces with their variables put in.
*/ -}}

{{- /* A variable as the container has it: {"set": bool, "value": string}. Takes root and name. */ -}}
{{- define "meterline.variable" -}}
{{- $found := dict "set" false "value" "" -}}
{{- if and (eq .name "SCRAPE_NAMESPACE") .root.Values.scrape.namespaces -}}
{{- $found = dict "set" true "value" (join "," .root.Values.scrape.namespaces) -}}
{{- end -}}
{{- if hasKey .root.Values.env .name -}}
{{- $found = dict "set" true "value" (toString (get .root.Values.env .name)) -}}
{{- end -}}
{{- $name := .name -}}
{{- range .root.Values.envVars -}}
{{- if eq .name $name -}}
{{- if .valueFrom -}}
{{- fail (printf "the variable %s says which namespaces are read, but its value is known only in the cluster: name them in scrape.namespaces, or give it a value" $name) -}}
{{- end -}}
{{- $found = dict "set" true "value" (toString (default "" .value)) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- /* A text with its variables put in. Takes root and text. */ -}}
{{- define "meterline.interpolated" -}}
{{- $root := .root -}}
{{- $text := .text -}}
{{- $pattern := "\\$\\{([A-Za-z_][A-Za-z0-9_]*)(?:([:-])([^}]*))?\\}" -}}
{{- range regexFindAll $pattern $text -1 -}}
{{- $name := regexReplaceAll $pattern . "${1}" -}}
{{- $separator := regexReplaceAll $pattern . "${2}" -}}
{{- $default := regexReplaceAll $pattern . "${3}" -}}
{{- $variable := include "meterline.variable" (dict "root" $root "name" $name) | fromJson -}}
{{- $value := $default -}}
{{- if and $variable.set (or (ne $separator ":") $variable.value) -}}
{{- $value = $variable.value -}}
{{- else if not $separator -}}
{{- fail (printf "config reads the namespaces of the variable %s, which is set neither in env nor in envVars" $name) -}}
{{- end -}}
{{- $text = replace . $value $text -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{- /* Every `kubernetes_resources` in a value, a line of JSON each. */ -}}
{{- define "meterline.inputs" -}}
{{- if kindIs "map" . -}}
{{- range $key, $value := . -}}
{{- if eq $key "kubernetes_resources" -}}
{{- toJson (default dict $value) }}{{ "\n" }}
{{- else -}}
{{- include "meterline.inputs" $value -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" . -}}
{{- range . -}}{{- include "meterline.inputs" . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The inputs of whichever configuration is chosen. */ -}}
{{- define "meterline.chosenInputs" -}}
{{- $asThePreset := list "${SCRAPE_NAMESPACE-default}" -}}
{{- if .Values.config -}}
{{- if .Values.config.input -}}
{{- include "meterline.inputs" .Values.config -}}
{{- else -}}
{{- /* A blank input stands for that of the preset. */ -}}
{{- toJson (dict "namespaces" $asThePreset) }}{{ "\n" }}
{{- include "meterline.inputs" (omit .Values.config "input") -}}
{{- end -}}
{{- else if .Values.configFile -}}
{{- range .Values.scrape.resourceTypes -}}
{{- toJson (dict "resource_type" . "namespaces" $asThePreset) }}{{ "\n" }}
{{- end -}}
{{- else -}}
{{- toJson (dict "namespaces" $asThePreset) }}{{ "\n" }}
{{- end -}}
{{- end -}}

{{- /* {"cluster": [plural, ...], "namespaced": {namespace: [plural, ...]}} */ -}}
{{- define "meterline.scopes" -}}
{{- $root := . -}}
{{- $cluster := list -}}
{{- $namespaced := dict -}}
{{- range splitList "\n" (include "meterline.chosenInputs" . | trim) -}}
{{- if . -}}
{{- $input := fromJson . -}}
{{- $plural := printf "%ss" (default "pod" $input.resource_type) -}}
{{- $names := list -}}
{{- range $input.namespaces -}}
{{- $text := include "meterline.interpolated" (dict "root" $root "text" (toString .)) -}}
{{- range splitList "," $text -}}
{{- $names = append $names (trim .) -}}
{{- end -}}
{{- end -}}
{{- if or (has $plural (list "nodes" "persistentvolumes")) (empty $names) (has "" $names) -}}
{{- $cluster = append $cluster $plural -}}
{{- else -}}
{{- range $names -}}
{{- $_ := set $namespaced . (append (default list (get $namespaced .)) $plural | uniq | sortAlpha) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $cluster = $cluster | uniq | sortAlpha -}}
{{- if and .Values.scrape.namespaces (or (has "pods" $cluster) (has "persistentvolumeclaims" $cluster)) -}}
{{- fail "scrape.namespaces names namespaces, but the configuration reads all of them: use ${SCRAPE_NAMESPACE} in its `namespaces`, or leave scrape.namespaces empty" -}}
{{- end -}}
{{- range $namespace, $plurals := $namespaced -}}
{{- $left := list -}}
{{- range $plurals -}}{{- if not (has . $cluster) -}}{{- $left = append $left . -}}{{- end -}}{{- end -}}
{{- if $left -}}
{{- $_ := set $namespaced $namespace $left -}}
{{- else -}}
{{- $_ := unset $namespaced $namespace -}}
{{- end -}}
{{- end -}}
{{- toJson (dict "cluster" $cluster "namespaced" $namespaced) -}}
{{- end -}}

{{- /* Whether the program talks to the API server at all; "true" or nothing. */ -}}
{{- define "meterline.needsToken" -}}
{{- $scopes := include "meterline.scopes" . | fromJson -}}
{{- if and .Values.serviceAccount.automount (or $scopes.cluster $scopes.namespaced .Values.leaderElection.enabled) -}}
true
{{- end -}}
{{- end -}}
