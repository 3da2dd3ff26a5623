{{- /*
What the configuration reads from the cluster, so that the chart grants exactly that. It is determined as
in the program: every `kubernetes_resources`, and its namespaces with variables replaced.
*/ -}}

{{- /* A variable of the container: {"set": bool, "value": string}. Takes root and name. */ -}}
{{- define "meterline.variable" -}}
{{- $found := dict "set" false "value" "" -}}
{{- $env := default dict .root.Values.env -}}
{{- $chart := dict "K8S_NAMESPACE" .root.Release.Namespace "K8S_APP_INSTANCE" .root.Release.Name "OPENMETER_URL" .root.Values.openmeter.url -}}
{{- if .root.Values.leaderElection.enabled -}}
{{- $chart = set $chart "LEASE_LOCK_NAME" (include "meterline.fullname" .root) -}}
{{- end -}}
{{- if .root.Values.scrape.namespaces -}}
{{- $chart = set $chart "SCRAPE_NAMESPACE" (join "," .root.Values.scrape.namespaces) -}}
{{- end -}}
{{- if hasKey $chart .name -}}
{{- $found = dict "set" true "value" (get $chart .name) -}}
{{- end -}}
{{- if hasKey $env .name -}}
{{- $found = dict "set" true "value" (include "meterline.text" (get $env .name)) -}}
{{- end -}}
{{- $name := .name -}}
{{- range .root.Values.envVars -}}
{{- if eq .name $name -}}
{{- if .valueFrom -}}
{{- fail (printf "what is granted depends on the variable %s, but its value is known only in the cluster: give it a value in env (for SCRAPE_NAMESPACE, name the namespaces in scrape.namespaces)" $name) -}}
{{- end -}}
{{- $found = dict "set" true "value" (default "" .value) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- /* A text with its variables replaced. Takes root and text. */ -}}
{{- define "meterline.interpolated" -}}
{{- $root := .root -}}
{{- $text := .text -}}
{{- $pattern := "\\$\\{([A-Za-z0-9_.]+)(?:([:-])([^}]*))?\\}" -}}
{{- range regexFindAll $pattern $text -1 -}}
{{- $name := regexReplaceAll $pattern . "${1}" -}}
{{- $separator := regexReplaceAll $pattern . "${2}" -}}
{{- $default := regexReplaceAll $pattern . "${3}" -}}
{{- $variable := include "meterline.variable" (dict "root" $root "name" $name) | fromJson -}}
{{- $value := $default -}}
{{- if and $variable.set (or (ne $separator ":") $variable.value) -}}
{{- $value = $variable.value -}}
{{- else if not $separator -}}
{{- fail (printf "config depends on the variable %s, which is set neither in env nor in envVars" $name) -}}
{{- end -}}
{{- $text = replace . $value $text -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{- /* What a built-in configuration reads: {"inputs": what is set of each `kubernetes_resources`, "text": the calls in
its mappings that read metadata, "claims": those in the mappings of claims of devices}. Takes the name of the preset; an
empty one is kubernetes-pod-exec-time. */ -}}
{{- define "meterline.presetReads" -}}
{{- $volumes := list (dict "resource_type" "persistentvolumeclaim") (dict "resource_type" "persistentvolume" "unless" "${VOLUMES_RELEASED:owner}=nobody") -}}
{{- $ofNamespaces := "subject(\"${SUBJECT_FROM:namespace}\") data_annotations(\"${DATA_ANNOTATIONS:namespaces}\")" -}}
{{- $ofPods := "subject(\"${SUBJECT_FROM:pod}\") data_annotations(\"${DATA_ANNOTATIONS:pods}\") pod_gpu_type()" -}}
{{- $pods := dict "inputs" (list (dict "resource_type" "pod" "node_labels" "${NODE_LABELS:false}")) "text" $ofPods -}}
{{- $devices := dict "inputs" (list (dict "resource_type" "pod" "node_labels" "${NODE_LABELS:true}")) "text" $ofPods -}}
{{- $ofClaims := printf "claim_devices() %s" $ofNamespaces -}}
{{- $claims := dict "resource_type" "resourceclaim" "if" "${DEVICE_CLAIMS:true}=true" -}}
{{- $devices = dict "inputs" (append $devices.inputs $claims) "text" $ofPods "claims" $ofClaims -}}
{{- $presets := dict
  "kubernetes-pod-device-time" $devices
  "kubernetes-node-time" (dict "inputs" (list (dict "resource_type" "node")) "text" "subject(\"${SUBJECT_FROM:pod}\") data_annotations(\"${DATA_ANNOTATIONS:none}\")")
  "kubernetes-loadbalancer-time" (dict "inputs" (list (dict "resource_type" "service")) "text" $ofNamespaces)
  "kubernetes-volume-time" (dict "inputs" $volumes "text" $ofNamespaces)
  "kubernetes-snapshot-time" (dict "inputs" (list (dict "resource_type" "volumesnapshot")) "text" $ofNamespaces)
  "kubernetes-all" (dict "inputs" (concat (list (dict "resource_type" "pod" "node_labels" "${NODE_LABELS:true}") (dict "resource_type" "node") (dict "resource_type" "service") $claims) $volumes) "claims" $ofClaims "text" (printf "%s %s subject(\"${NODE_SUBJECT_FROM:pod}\")" $ofPods $ofNamespaces))
-}}
{{- toJson (default $pods (get $presets .)) -}}
{{- end -}}

{{- /* Every `kubernetes_resources` in an input and in the resources that it names, one line of JSON each.
Takes node and resources, the configuration's `input_resources`. */ -}}
{{- define "meterline.inputs" -}}
{{- $resources := .resources -}}
{{- if kindIs "map" .node -}}
{{- range $key, $value := .node -}}
{{- if eq $key "kubernetes_resources" -}}
{{- toJson (default dict $value) }}{{ "\n" }}
{{- else if and (eq $key "resource") (kindIs "string" $value) -}}
{{- range $resource := $resources -}}
{{- if eq (toString $resource.label) $value -}}
{{- include "meterline.inputs" (dict "node" $resource "resources" (without $resources $resource)) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- include "meterline.inputs" (dict "node" $value "resources" $resources) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" .node -}}
{{- range .node -}}{{- include "meterline.inputs" (dict "node" . "resources" $resources) -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What the chosen preset reads. What is blank in a configuration stands for that of the first preset. */ -}}
{{- define "meterline.chosenPreset" -}}
{{- include "meterline.presetReads" (ternary "" .Values.preset (not (empty .Values.config))) -}}
{{- end -}}

{{- /* The inputs of the selected configuration. */ -}}
{{- define "meterline.chosenInputs" -}}
{{- $asThePreset := list "${SCRAPE_NAMESPACE-default}" -}}
{{- if (default dict .Values.config).input -}}
{{- include "meterline.inputs" (dict "node" .Values.config.input "resources" (default list .Values.config.input_resources)) -}}
{{- else if and .Values.configFile (not .Values.config) -}}
{{- range .Values.scrape.resourceTypes -}}
{{- toJson (dict "resource_type" . "namespaces" $asThePreset) }}{{ "\n" }}
{{- end -}}
{{- else -}}
{{- $preset := include "meterline.chosenPreset" . | fromJson -}}
{{- range $preset.inputs -}}
{{- $unless := splitList "=" (include "meterline.interpolated" (dict "root" $ "text" (default "" .unless))) -}}
{{- $if := splitList "=" (include "meterline.interpolated" (dict "root" $ "text" (default "" .if))) -}}
{{- if and (or (not .unless) (ne (first $unless) (last $unless))) (eq (first $if) (last $if)) -}}
{{- toJson (set (omit . "unless" "if") "namespaces" $asThePreset) }}{{ "\n" }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* "true" if an input has the labels of nodes for devices() and pod_gpu_type(), else empty. */ -}}
{{- define "meterline.hasNodeLabels" -}}
{{- $root := . -}}
{{- $found := "" -}}
{{- range splitList "\n" (include "meterline.chosenInputs" . | trim) -}}
{{- if . -}}
{{- $input := fromJson . -}}
{{- $wanted := include "meterline.interpolated" (dict "root" $root "text" (include "meterline.text" (default false $input.node_labels))) -}}
{{- $type := include "meterline.interpolated" (dict "root" $root "text" (default "pod" $input.resource_type)) -}}
{{- if and (eq (trim $wanted) "true") (eq $type "pod") -}}{{- $found = "true" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{- /* "true" if an input reads claims of devices, else empty. */ -}}
{{- define "meterline.hasClaims" -}}
{{- $root := . -}}
{{- $found := "" -}}
{{- range splitList "\n" (include "meterline.chosenInputs" . | trim) -}}
{{- if . -}}
{{- $input := fromJson . -}}
{{- $type := include "meterline.interpolated" (dict "root" $root "text" (default "pod" $input.resource_type)) -}}
{{- if eq $type "resourceclaim" -}}{{- $found = "true" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{- /* The collections that mappings read beside the objects of the inputs, one a line: those of `namespace()`, `node()`,
`subject(…)`, `data_annotations(…)`, where an input has the labels of nodes those of the functions for devices, and where
one reads claims those of `claim_devices()`. `controllers` stands for those of `owner()`, unless nothing but what is in pods
is read of it. */ -}}
{{- define "meterline.readMetadata" -}}
{{- $preset := include "meterline.chosenPreset" . | fromJson -}}
{{- $hasClaims := include "meterline.hasClaims" . -}}
{{- $text := $preset.text -}}
{{- if $hasClaims -}}
{{- $text = printf "%s %s" $text (default "" $preset.claims) -}}
{{- end -}}
{{- if .Values.config -}}
{{- $text = toJson .Values.config -}}
{{- if not .Values.config.pipeline -}}
{{- $text = printf "%s %s" $text $preset.text -}}
{{- end -}}
{{- else if .Values.configFile -}}
{{- $text = "" -}}
{{- range .Values.scrape.metadata -}}{{- . }}{{ "\n" }}{{- end -}}
{{- end -}}
{{- if regexMatch "\\bnamespace\\(\\)" $text -}}namespaces{{ "\n" }}{{- end -}}
{{- if regexMatch "\\bnode\\(\\)" $text -}}nodes{{ "\n" }}{{- end -}}
{{- $ofPods := regexReplaceAll "\\bowner\\(\\)\\s*\\??\\.\\s*(kind|name|api_version)\\b" $text "" -}}
{{- if regexMatch "\\bowner\\(\\)" $ofPods -}}controllers{{ "\n" }}{{- end -}}
{{- if and $hasClaims (regexMatch "\\bclaim_devices\\(" $text) -}}resourceslices{{ "\n" }}{{- end -}}
{{- if and (regexMatch "\\b(devices|pod_gpu_type)\\(" $text) (include "meterline.hasNodeLabels" .) -}}nodes{{ "\n" }}{{- end -}}
{{- range regexFindAll "\\b(subject|data_annotations|pod_gpu_type)\\([^)]*\\)" $text -1 -}}
{{- $source := include "meterline.interpolated" (dict "root" $ "text" .) -}}
{{- if contains "\"namespace" $source -}}namespaces{{ "\n" }}{{- end -}}
{{- if contains "\"node-label:" $source -}}nodes{{ "\n" }}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* {"cluster": [plural, ...], "namespaced": {namespace: [plural, ...]}} */ -}}
{{- define "meterline.scopes" -}}
{{- $root := . -}}
{{- $cluster := list -}}
{{- $namespaced := dict -}}
{{- $metadata := splitList "\n" (include "meterline.readMetadata" . | trim) -}}
{{- $controllers := ternary (list "deployments" "statefulsets" "daemonsets" "jobs" "cronjobs") list (has "controllers" $metadata) -}}
{{- range splitList "\n" (include "meterline.chosenInputs" . | trim) -}}
{{- if . -}}
{{- $input := fromJson . -}}
{{- $type := include "meterline.interpolated" (dict "root" $root "text" (default "pod" $input.resource_type)) -}}
{{- if not (has $type (list "pod" "node" "persistentvolume" "persistentvolumeclaim" "service" "volumesnapshot" "resourceclaim")) -}}
{{- fail (printf "kubernetes_resources.resource_type is %s, and must be pod, node, persistentvolume, persistentvolumeclaim, service, volumesnapshot or resourceclaim" $type) -}}
{{- end -}}
{{- $plural := printf "%ss" $type -}}
{{- $plurals := concat (list $plural) (ternary $controllers list (eq $type "pod")) -}}
{{- $names := list -}}
{{- range $input.namespaces -}}
{{- $text := include "meterline.interpolated" (dict "root" $root "text" (include "meterline.text" .)) -}}
{{- range splitList "," $text -}}
{{- $names = append $names (trim .) -}}
{{- end -}}
{{- end -}}
{{- if or (has $plural (list "nodes" "persistentvolumes")) (empty $names) (has "" $names) -}}
{{- $cluster = concat $cluster $plurals -}}
{{- else -}}
{{- range $names -}}
{{- $_ := set $namespaced . (concat (default list (get $namespaced .)) $plurals | uniq | sortAlpha) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $metadata -}}
{{- if and . (ne . "controllers") -}}
{{- $cluster = append $cluster . -}}
{{- end -}}
{{- end -}}
{{- $cluster = $cluster | uniq | sortAlpha -}}
{{- if and .Values.scrape.namespaces (or (has "pods" $cluster) (has "persistentvolumeclaims" $cluster) (has "services" $cluster) (has "volumesnapshots" $cluster) (has "resourceclaims" $cluster)) -}}
{{- fail "scrape.namespaces names namespaces, but the configuration reads all of them: use ${SCRAPE_NAMESPACE} in its `namespaces`, or leave scrape.namespaces empty (with --reset-then-reuse-values by --set scrape.namespaces=null)" -}}
{{- end -}}
{{- range .Values.scrape.namespaces -}}
{{- if not (hasKey $namespaced .) -}}
{{- fail (printf "scrape.namespaces names %s, which the configuration does not read: use ${SCRAPE_NAMESPACE} in its `namespaces`, and do not set it in env as well" .) -}}
{{- end -}}
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

{{- /* "true" if the program sends requests to the API server, else empty. */ -}}
{{- define "meterline.needsToken" -}}
{{- $scopes := include "meterline.scopes" . | fromJson -}}
{{- if and .Values.serviceAccount.automount (or $scopes.cluster $scopes.namespaced .Values.leaderElection.enabled) -}}
true
{{- end -}}
{{- end -}}
