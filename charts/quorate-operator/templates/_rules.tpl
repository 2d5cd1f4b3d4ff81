{{/*
What the operator may do with namespaced objects, in a ClusterRole or in one Role a namespace. Each rule says what for; the
end-to-end test fails when the operator was refused anything.
Secrets are the widest right: the operator makes and renews the certificates of clusters and reads users' own.
*/}}
{{- define "operator.rules" -}}
# intent is read, status is written; finalizers stand for "may be named as an owner whose deletion waits for its objects"
- apiGroups: [quorate.io]
  resources: [quorateclusters, quoratebackupstores, quoratebackupschedules, quoratetasks, quoraterestores]
  verbs: [get, list, watch]
- apiGroups: [quorate.io]
  resources: ["*/status"]
  verbs: [update, patch]
- apiGroups: [quorate.io]
  resources: ["*/finalizers"]
  verbs: [update]
# schedules make backups, ask for their proof and let go of old ones, a restore makes one first; the agent's jobs take and restore them
- apiGroups: [quorate.io]
  resources: [quoratebackups]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# the agent that keeps deltas
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, create, patch, delete]
# what a cluster is made of, by server-side apply; it goes with the QuorateCluster, by Kubernetes' own hand
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create, patch]
# these two also go when the spec no longer asks for them
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch, delete]
# certificates are swapped whole, never merged
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update]
# tls.mode CertManager: cert-manager is asked for the certificates, and nothing else of it is touched
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, create, patch]
# members are restarted by deleting their pods, and labelled with their role; pods are made by StatefulSets alone
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# volumes grow, are handed over to the garbage collector, or go with a member that left; a restore fills one before its pod comes
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/*
Cluster-wide by nature. Nodes: is the one that a lost pod's volume lives on gone? Volumes: a task or a restore that replaces data
tells the old volumes to stay (reclaim policy Retain) before their claims go, and hands one back when a restore is given up.
*/}}
{{- define "operator.clusterRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, patch]
{{- end -}}
