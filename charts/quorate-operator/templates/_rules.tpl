{{/*
What the operator may do with namespaced objects, in a ClusterRole or in one Role a namespace. Each rule says what for.
Secrets are the widest right: the operator makes and renews the certificates of clusters and reads users' own.
*/}}
{{- define "operator.rules" -}}
# its own resources: intent is read, status and finalizers are written
- apiGroups: [quorate.io]
  resources: ["*"]
  verbs: [get, list, watch]
- apiGroups: [quorate.io]
  resources: [quorateclusters, quoratebackups, quoratebackupschedules, quoratebackupstores, quoraterestores, quoratetasks]
  verbs: [update, patch]
- apiGroups: [quorate.io]
  resources: ["*/status", "*/finalizers"]
  verbs: [get, update, patch]
# the workload of a cluster and what it is reached and guarded by
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps, secrets, serviceaccounts]
  verbs: [get, list, watch, create, update, patch, delete]
# members are restarted by deleting their pods, and labelled with their role; pods are made by StatefulSets alone
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# volumes of members that left, or were lost
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, update, patch, delete]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* Read only, and cluster-wide by nature: is a lost pod's node gone, can its volumes grow? */}}
{{- define "operator.clusterRules" -}}
- apiGroups: [""]
  resources: [nodes, persistentvolumes]
  verbs: [get, list, watch]
- apiGroups: [storage.k8s.io]
  resources: [storageclasses]
  verbs: [get, list, watch]
{{- end -}}
