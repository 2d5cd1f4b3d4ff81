{{/* What the release's objects are called: at most 50 characters, so that suffixes fit. */}}
{{- define "operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "operator.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "operator.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "operator.selector" -}}
app.kubernetes.io/name: {{ include "operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: quorate
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image reference out of registry, repository, tag and digest; the tag is the chart's appVersion unless given. */}}
{{- define "operator.reference" -}}
{{- $name := .image.repository -}}
{{- with .image.registry -}}{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .version .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "operator.image" -}}
{{- include "operator.reference" (dict "image" .Values.image "version" .Chart.AppVersion) -}}
{{- end -}}

{{/* A tag or digest of its own goes with the cluster image; another image's would be wrong for another repository. */}}
{{- define "operator.clusterImage" -}}
{{- $own := .Values.clusterImage -}}
{{- $image := dict "registry" (default .Values.image.registry $own.registry) "repository" (default .Values.image.repository $own.repository) "tag" $own.tag "digest" $own.digest -}}
{{- if and (not $own.tag) (not $own.digest) (not $own.repository) -}}
{{- $_ := set $image "tag" .Values.image.tag -}}
{{- $_ := set $image "digest" .Values.image.digest -}}
{{- end -}}
{{- include "operator.reference" (dict "image" $image "version" .Chart.AppVersion) -}}
{{- end -}}
