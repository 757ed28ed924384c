{{- /* Everything is in kube-system: the controller's Lease is there, and its Namespace is global from the start. */ -}}
{{- define "k8s-ovs.namespace" -}}
{{- if ne .Release.Namespace "kube-system" -}}
{{- fail "k8s-ovs belongs into kube-system: install it with --namespace kube-system" -}}
{{- end -}}
kube-system
{{- end -}}

{{- /* Values that are right each by itself and cannot be together; said here, since pods would only wait for ever. */ -}}
{{- define "k8s-ovs.check" -}}
{{- with .Values.etcd -}}
{{- if .enabled -}}
{{- if .username -}}
{{- fail "etcd.username is for an etcd of your own: set etcd.enabled=false, or leave the name out (clients of the chart's etcd prove who they are with certificates)" -}}
{{- end -}}
{{- if not .clientCertificate -}}
{{- fail "etcd.clientCertificate=false is for an etcd of your own: the chart's etcd asks for certificates; set etcd.enabled=false, or leave it true" -}}
{{- end -}}
{{- if ne 3 (list (int .ports.client) (int .ports.peer) (int .ports.metrics) | uniq | len) -}}
{{- fail (printf "etcd.ports: client %v, peer %v and metrics %v must differ, since etcd listens on each" .ports.client .ports.peer .ports.metrics) -}}
{{- end -}}
{{- if and (not .storage.hostPath) (eq .storage.className "k8s-ovs-etcd") -}}
{{- fail "etcd.storage.hostPath is empty: name a StorageClass of the cluster with etcd.storage.className (k8s-ovs-etcd is the name of the folder's own)" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* (list . "agent"): labels that select the pods of one component. They never change. */ -}}
{{- define "k8s-ovs.selector" -}}
app.kubernetes.io/name: k8s-ovs
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "k8s-ovs.labels" -}}
{{ include "k8s-ovs.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
{{- end -}}

{{- /* (list . "k8s-ovs"): one of the images k8s-ovs, openvswitch, etcd. */ -}}
{{- define "k8s-ovs.image" -}}
{{- $image := (index . 0).Values.image -}}
image: {{ with $image.registry }}{{ trimSuffix "/" . }}/{{ end }}k8s-ovs/{{ index . 1 }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end -}}

{{- /* Where etcd is, and with what to prove who we are. */ -}}
{{- define "k8s-ovs.etcdEnv" -}}
- name: K8S_OVS_ETCD_CAFILE
  value: /etc/k8s-ovs/etcd/ca.crt
{{- if .Values.etcd.clientCertificate }}
- name: K8S_OVS_ETCD_CERTFILE
  value: /etc/k8s-ovs/etcd/client.crt
- name: K8S_OVS_ETCD_KEYFILE
  value: /etc/k8s-ovs/etcd/client.key
{{- end }}
{{- with .Values.etcd.username }}
- name: K8S_OVS_ETCD_USERNAME
  value: {{ . | quote }}
- name: K8S_OVS_ETCD_PASSWORD_FILE
  value: /etc/k8s-ovs/etcd/password
{{- end }}
{{- end -}}

{{- /* (list . MODE): the client's part of the Secret. Until it exists the pod waits (FailedMount). */ -}}
{{- define "k8s-ovs.etcdVolume" -}}
{{- $etcd := (index . 0).Values.etcd -}}
- name: etcd-tls
  secret:
    secretName: k8s-ovs-etcd-tls
    defaultMode: {{ index . 1 }}
    items:
      - key: ca.crt
        path: ca.crt
{{- if $etcd.clientCertificate }}
      - key: client.crt
        path: client.crt
      - key: client.key
        path: client.key
{{- end }}
{{- if $etcd.username }}
      - key: password
        path: password
{{- end }}
{{- end -}}

{{- /* Settings of everyone; the ConfigMap with etcd's endpoints is made by etcd's pod, or by hand: until then the pod waits. */ -}}
{{- define "k8s-ovs.envFrom" -}}
- configMapRef:
    name: k8s-ovs-config
- configMapRef:
    name: k8s-ovs-etcd
{{- end -}}

{{- /* `k8s-ovs etcd-tls`, before etcd and, with "every" (hours), beside it. */ -}}
{{- define "k8s-ovs.etcdTls" -}}
{{ include "k8s-ovs.image" (list . "k8s-ovs") }}
command: [k8s-ovs]
args:
  - etcd-tls
  - --dir=/etc/k8s-ovs/etcd
  - --port={{ .Values.etcd.ports.client }}
{{- with .every }}
  - --every={{ . }}
{{- end }}
envFrom:
  - configMapRef:
      name: k8s-ovs-config
env:
  - name: K8S_OVS_ETCD_ADDRESS
    valueFrom:
      fieldRef:
        fieldPath: status.hostIP
resources:
  requests:
    cpu: 10m
    memory: 48Mi
securityContext:
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: tls
    mountPath: /etc/k8s-ovs/etcd
  - name: tmp
    mountPath: /tmp
{{- end -}}
