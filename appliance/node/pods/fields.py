"""What of a Kubernetes Pod the runner does: one table of types and fields; docs/pods.md is made from it.

A field that is here works as in Kubernetes; its rule, a piece of JSON Schema, says what Kubernetes' published schema
(kubernetes.json) leaves to prose, and where we do less. A field of that schema which is not here is refused by name,
with the way out in INSTEAD. `title` is how an error calls what was expected, `description` goes to the documentation.
Under the key "" are rules for the type as a whole.
"""

from typing import Any

Rule = dict[str, Any]


def _matching(pattern: str, title: str, **more: Any) -> Rule:
    # \Z, since $ would let a newline follow
    return {"pattern": rf"^(?:{pattern})\Z", "title": title, **more}


def _seconds(least: int, most: int = 86400, **more: Any) -> Rule:
    return {"minimum": least, "maximum": most, **more}


def _exactly_one(*names: str) -> Rule:
    return {"oneOf": [{"required": [name]} for name in names], "title": f"exactly one of {', '.join(names)}"}


_LABEL_PATTERN = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_LABEL = _matching(_LABEL_PATTERN, "a name of at most 63 lower-case letters, digits and dashes")
_SUBDOMAIN = _matching(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "a name of lower-case letters, digits, dashes and dots",
)
_KEY = _matching(r"(?!\.\.?\Z)(?!\.\.)[-._a-zA-Z0-9]{1,253}", "a key of letters, digits, -, _ and .")
_PORT = {"minimum": 1, "maximum": 65535, "title": "a port number from 1 to 65535"}
_PORT_OR_NAME = {**_PORT, **_matching(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?", "a port's number or name")}
_ID = {"minimum": 0, "maximum": 2**31 - 1}
_MODE = {"minimum": 0, "maximum": 0o777, "title": "a file mode from 0 to 0777 (511 in JSON)"}
_ABSOLUTE = _matching(r"/[^:]*", "an absolute path without a colon")
_HOST_PATH = _matching(r"/(?!(.*/)?\.\.(/|\Z)).*", "an absolute path without ..")
_RELATIVE = _matching(r"(?!/)(?!(.*/)?\.\.(/|\Z)).+", "a relative path without ..")
_ADDRESS = {"address": True}
_AMOUNT = {"amount": True}
_OBJECT: Rule = {"": {"required": ["name"]}, "name": _SUBDOMAIN, "optional": {}}
_OBJECT_KEY: Rule = {"": {"required": ["name"]}, "name": _SUBDOMAIN, "key": _KEY, "optional": {}}
_PROJECTION: Rule = {**_OBJECT, "items": {"uniqueBy": "path"}}
_NO_CLUSTER = "there is no cluster whose services or accounts a pod could use"
_ONE_HOST = "the inventory says which host runs a pod"
_SELINUX = "Debian's engine does not label containers"

SUPPORTED: dict[str, dict[str, Rule]] = {
    "Pod": {
        "": {"required": ["apiVersion", "kind", "metadata", "spec"]},
        "apiVersion": {},
        "kind": {},
        "metadata": {},
        "spec": {},
        "status": {"description": "empty, as `kubectl create --dry-run` writes it"},
    },
    "ObjectMeta": {
        "": {"required": ["name"]},
        "name": _LABEL | {"description": "no dots: it is also the host's name in the pod"},
        "namespace": _LABEL | {"description": "a label only; two pods of one name cannot be on a host"},
        "uid": _matching(r"[-a-zA-Z0-9]{1,63}", "a UID"),
        "labels": {},
        "annotations": {},
    },
    "PodSpec": {
        "containers": {"minItems": 1, "uniqueBy": "name"},
        "initContainers": {"uniqueBy": "name"},
        "volumes": {"uniqueBy": "name"},
        "restartPolicy": {"enum": ["Always", "OnFailure", "Never"]},
        "terminationGracePeriodSeconds": _seconds(0),
        "activeDeadlineSeconds": _seconds(1, 2**31 - 1, description="counted from the start of the pod's sandbox"),
        "runtimeClassName": _SUBDOMAIN | {"description": "`microvm` or `runc`; without it `engine_default_handler`"},
        "hostNetwork": {"description": "`runc` only"},
        "hostPID": {"description": "`runc` only"},
        "hostIPC": {"description": "`runc` only"},
        "shareProcessNamespace": {"description": "`runc` only"},
        "hostname": _LABEL,
        "hostAliases": {},
        "dnsPolicy": {
            "enum": ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
            "description": "with no cluster, all but None mean the host's resolvers",
        },
        "dnsConfig": {},
        "imagePullSecrets": {"description": "Secrets of the types dockerconfigjson and dockercfg"},
        "securityContext": {},
        "enableServiceLinks": {"description": "without effect: there are no services"},
        "automountServiceAccountToken": {"enum": [False], "why": _NO_CLUSTER},
    },
    "Container": {
        "": {"required": ["name", "image"]},
        "name": _LABEL,
        "image": _matching(r"\S+", "an image reference"),
        "imagePullPolicy": {"enum": ["IfNotPresent", "Always", "Never"]},
        "command": {},
        "args": {},
        "workingDir": _matching(r"/.*", "an absolute path"),
        "env": {},
        "envFrom": {},
        "ports": {},
        "resources": {},
        "volumeMounts": {"uniqueBy": "mountPath"},
        "livenessProbe": {"description": "not in init containers, like the other probes and lifecycle"},
        "readinessProbe": {},
        "startupProbe": {},
        "lifecycle": {},
        "securityContext": {},
        "stdin": {},
        "stdinOnce": {},
        "tty": {},
    },
    "EnvVar": {
        "name": _matching(r"[ -<>-~]+", "a variable's name: printable ASCII without ="),
        "value": {},
        "valueFrom": {},
    },
    "EnvVarSource": {
        "": _exactly_one("fieldRef", "configMapKeyRef", "secretKeyRef"),
        "fieldRef": {},
        "configMapKeyRef": {},
        "secretKeyRef": {},
    },
    "ObjectFieldSelector": {
        "fieldPath": _matching(
            r"metadata\.(name|namespace|uid|labels|annotations)|metadata\.(labels|annotations)\['[^']+'\]"
            r"|spec\.nodeName|status\.(podIP|hostIP)",
            "metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'], "
            "spec.nodeName, status.podIP or status.hostIP",
        ),
        "apiVersion": {"enum": ["v1"]},
    },
    "ConfigMapKeySelector": _OBJECT_KEY,
    "SecretKeySelector": _OBJECT_KEY,
    "EnvFromSource": {
        "": _exactly_one("configMapRef", "secretRef"),
        "prefix": _matching(r"[ -<>-~]*", "printable ASCII without ="),
        "configMapRef": {},
        "secretRef": {},
    },
    "ConfigMapEnvSource": _OBJECT,
    "SecretEnvSource": _OBJECT,
    "ContainerPort": {
        "name": _matching(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?", "a name of at most 15 characters"),
        "containerPort": _PORT,
        "hostPort": _PORT,
        "hostIP": _ADDRESS,
        "protocol": {"enum": ["TCP", "UDP"]},
    },
    "ResourceRequirements": {
        "limits": {"keys": ["cpu", "memory"], "description": "`cpu` and `memory`"},
        "requests": {"keys": ["cpu", "memory"], "description": "`cpu` and `memory`; memory is not reserved"},
    },
    "Quantity": {"": _AMOUNT},
    "VolumeMount": {
        "name": _LABEL,
        "mountPath": _ABSOLUTE,
        "readOnly": {},
        "subPath": _RELATIVE | {"description": "through no symbolic link"},
        "mountPropagation": {"enum": ["None"]},
    },
    "Probe": {
        "": _exactly_one("exec", "httpGet", "tcpSocket", "grpc"),
        "exec": {},
        "httpGet": {},
        "tcpSocket": {},
        "grpc": {},
        "initialDelaySeconds": _seconds(0),
        "periodSeconds": _seconds(1),
        "timeoutSeconds": _seconds(1, 3600),
        "successThreshold": _seconds(1, 100),
        "failureThreshold": _seconds(1, 2**31 - 1),
        "terminationGracePeriodSeconds": _seconds(1, description="not in readinessProbe"),
    },
    "Lifecycle": {"postStart": {}, "preStop": {}},
    "LifecycleHandler": {
        "": _exactly_one("exec", "httpGet", "sleep"),
        "exec": {},
        "httpGet": {},
        "sleep": {},
    },
    "SleepAction": {"seconds": _seconds(0)},
    "ExecAction": {"": {"required": ["command"]}, "command": {"minItems": 1}},
    "HTTPGetAction": {
        "path": {},
        "port": _PORT_OR_NAME,
        "host": _ADDRESS,
        "scheme": {"enum": ["HTTP", "HTTPS"]},
        "httpHeaders": {},
    },
    "HTTPHeader": {
        "name": _matching(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+", "an HTTP header's name"),
        "value": _matching(r"[^\r\n]*", "one line"),
    },
    "TCPSocketAction": {"port": _PORT_OR_NAME, "host": _ADDRESS},
    "GRPCAction": {"port": _PORT, "service": {}},
    "SecurityContext": {
        "privileged": {"description": "in a microVM: of the guest, never of the host"},
        "runAsUser": _ID,
        "runAsGroup": _ID,
        "runAsNonRoot": {},
        "readOnlyRootFilesystem": {},
        "allowPrivilegeEscalation": {},
        "capabilities": {},
        "seccompProfile": {"description": "without it RuntimeDefault, not Unconfined as in Kubernetes"},
    },
    "Capabilities": {"add": {}, "drop": {}},
    "SeccompProfile": {"type": {"enum": ["RuntimeDefault", "Unconfined"]}},
    "PodSecurityContext": {
        "runAsUser": _ID,
        "runAsGroup": _ID,
        "runAsNonRoot": {},
        "supplementalGroups": {"items": _ID},
        "fsGroup": _ID | {"description": "for all volumes but hostPath"},
        "fsGroupChangePolicy": {"enum": ["Always", "OnRootMismatch"]},
        "seccompProfile": {},
        "sysctls": {"uniqueBy": "name"},
    },
    "Sysctl": {"name": {}, "value": {}},
    "Volume": {
        "": _exactly_one(
            "emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected", "persistentVolumeClaim"
        ),
        "name": _LABEL,
        "emptyDir": {},
        "hostPath": {},
        "configMap": {},
        "secret": {},
        "downwardAPI": {},
        "projected": {},
        "persistentVolumeClaim": {},
    },
    "EmptyDirVolumeSource": {
        "medium": {"enum": ["", "Memory"]},
        "sizeLimit": {"description": "with `medium: Memory`; without it half of the host's memory"},
    },
    "HostPathVolumeSource": {
        "path": _HOST_PATH,
        "type": {
            "enum": [
                "",
                "DirectoryOrCreate",
                "Directory",
                "FileOrCreate",
                "File",
                "Socket",
                "CharDevice",
                "BlockDevice",
            ],
            "description": "Socket, CharDevice, BlockDevice: `runc` only",
        },
    },
    "ConfigMapVolumeSource": {**_PROJECTION, "defaultMode": _MODE},
    "SecretVolumeSource": {
        "": {"required": ["secretName"]},
        "secretName": _SUBDOMAIN,
        "items": {"uniqueBy": "path"},
        "defaultMode": _MODE,
        "optional": {},
    },
    "KeyToPath": {"key": _KEY, "path": _RELATIVE, "mode": _MODE},
    "DownwardAPIVolumeSource": {"items": {"uniqueBy": "path"}, "defaultMode": _MODE},
    "DownwardAPIVolumeFile": {
        "": {"required": ["fieldRef"]},
        "path": _RELATIVE,
        "fieldRef": {"description": "of metadata"},
        "mode": _MODE,
    },
    "ProjectedVolumeSource": {"": {"required": ["sources"]}, "sources": {}, "defaultMode": _MODE},
    "VolumeProjection": {
        "": _exactly_one("configMap", "secret", "downwardAPI"),
        "configMap": {},
        "secret": {},
        "downwardAPI": {},
    },
    "ConfigMapProjection": _PROJECTION,
    "SecretProjection": _PROJECTION,
    "DownwardAPIProjection": {"items": {"uniqueBy": "path"}},
    "PersistentVolumeClaimVolumeSource": {
        "claimName": _LABEL | {"description": "a volume of `storage_volumes`"},
        "readOnly": {},
    },
    "HostAlias": {
        "": {"required": ["ip", "hostnames"]},
        "ip": _ADDRESS,
        "hostnames": {"minItems": 1, "items": _matching(r"\S+", "a host's name")},
    },
    "PodDNSConfig": {
        "nameservers": {"items": _ADDRESS},
        "searches": {"items": _matching(r"\S+", "a domain")},
        "options": {},
    },
    "PodDNSConfigOption": {
        "": {"required": ["name"]},
        "name": _matching(r"\S+", "an option's name"),
        "value": _matching(r"\S*", "an option's value"),
    },
    "LocalObjectReference": {"": {"required": ["name"]}, "name": _SUBDOMAIN},
    "ConfigMap": {
        "": {"required": ["apiVersion", "kind", "metadata"]},
        "apiVersion": {},
        "kind": {},
        "metadata": {},
        "data": {"propertyNames": _KEY},
        "binaryData": {"propertyNames": _KEY},
        "immutable": {"description": "without effect"},
    },
    "Secret": {
        "": {"required": ["apiVersion", "kind", "metadata"]},
        "apiVersion": {},
        "kind": {},
        "metadata": {},
        "data": {"propertyNames": _KEY},
        "stringData": {"propertyNames": _KEY},
        "type": {},
        "immutable": {"description": "without effect"},
    },
}

INSTEAD: dict[str, str] = {
    **dict.fromkeys(
        (
            f"PodSpec.{name}"
            for name in (
                "nodeName",
                "nodeSelector",
                "affinity",
                "tolerations",
                "schedulerName",
                "topologySpreadConstraints",
                "schedulingGates",
                "os",
                "readinessGates",
            )
        ),
        _ONE_HOST,
    ),
    **dict.fromkeys(
        (f"PodSpec.{name}" for name in ("priority", "priorityClassName", "preemptionPolicy")),
        "no pod is evicted for another",
    ),
    **dict.fromkeys(("PodSpec.serviceAccount", "PodSpec.serviceAccountName"), _NO_CLUSTER),
    **dict.fromkeys(("PodSpec.resources", "PodSpec.overhead"), "set the resources of its containers"),
    **dict.fromkeys(
        ("PodSpec.resourceClaims", "ResourceRequirements.claims"),
        "devices come with hostPath and runtimeClassName: runc",
    ),
    **dict.fromkeys(("PodSpec.subdomain", "PodSpec.setHostnameAsFQDN"), "write the full name into hostAliases"),
    "PodSpec.hostUsers": "a microVM keeps its users apart from the host's",
    "PodSpec.ephemeralContainers": "appliance exec runs programs in a container",
    "Container.restartPolicy": "a container that is to run beside the others belongs in spec.containers",
    "Container.resizePolicy": "changed resources replace the pod",
    "Container.volumeDevices": "use a hostPath volume of type BlockDevice with runtimeClassName: runc",
    "Container.terminationMessagePath": "appliance logs shows what a container said last",
    "Container.terminationMessagePolicy": "appliance logs shows what a container said last",
    "EnvVarSource.resourceFieldRef": "write the figure as a value",
    "DownwardAPIVolumeFile.resourceFieldRef": "write the figure into a ConfigMap",
    "VolumeMount.subPathExpr": "write the path into subPath",
    "VolumeMount.recursiveReadOnly": "readOnly makes the volume itself read-only",
    "LifecycleHandler.tcpSocket": "it does nothing in Kubernetes either; use exec, httpGet or sleep",
    "SecurityContext.appArmorProfile": "the engine's own profile applies where the host has AppArmor",
    "PodSecurityContext.appArmorProfile": "the engine's own profile applies where the host has AppArmor",
    "SecurityContext.procMount": "privileged: true shows all of /proc",
    "SecurityContext.seLinuxOptions": _SELINUX,
    "PodSecurityContext.seLinuxOptions": _SELINUX,
    "PodSecurityContext.seLinuxChangePolicy": _SELINUX,
    "PodSecurityContext.supplementalGroupsPolicy": "the groups of the image's user and supplementalGroups are joined",
    "SeccompProfile.localhostProfile": "use RuntimeDefault or Unconfined",
    "VolumeProjection.serviceAccountToken": _NO_CLUSTER,
    "VolumeProjection.clusterTrustBundle": _NO_CLUSTER,
    "Volume.image": "put the files into the container's own image",
    "Volume.ephemeral": "use emptyDir, or a volume of storage_volumes",
    "Volume.nfs": "mount it on the host and use hostPath",
}
"""Ways out, by `Type.field`; fields of volumes of a cloud or a cluster have that of VOLUME_INSTEAD."""

VOLUME_INSTEAD = "use emptyDir, hostPath, or a volume of storage_volumes by persistentVolumeClaim"
