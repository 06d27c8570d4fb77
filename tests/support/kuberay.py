"""What a Kubernetes cluster with KubeRay 1.6.2 would say to a manifest, without a cluster.

KubeRay's fields are written out from its generated reference, with required fields and bounds from the Go types behind
it (ray-project/kuberay, tag v1.6.2, docs/reference/api.md, ray-operator/apis/ray/v1/ray{job,cluster}_types.go); what
it takes from Kubernetes (pod templates, security contexts, ...) is Kubernetes' own schema, from the package
kubernetes-validate. Unknown fields fail everywhere, as with `kubectl apply`.
"""

import copy
import functools
import re
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator, ValidationError
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

KUBERNETES = "1.37"
DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
POSITIVE: Schema = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def _core(kind: str) -> Schema:
    return {"$ref": f"{DEFINITIONS}#/$defs/io.k8s.api.core.v1.{kind}"}


def _list(items: Schema, at_least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": at_least}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


AUTOSCALER = _object(
    resources=_core("ResourceRequirements"),
    image=TEXT,
    imagePullPolicy=_one_of("Always", "IfNotPresent", "Never"),
    securityContext=_core("SecurityContext"),
    idleTimeoutSeconds=COUNT,
    upscalingMode=_one_of("Default", "Aggressive", "Conservative"),
    version=_one_of("v1", "v2"),
    env=_list(_core("EnvVar")),
    envFrom=_list(_core("EnvFromSource")),
    volumeMounts=_list(_core("VolumeMount")),
)
HEAD = _object(
    ("template",),
    template=_core("PodTemplateSpec"),
    headService=_core("Service"),
    enableIngress=FLAG,
    resources=TEXTS,
    labels=TEXTS,
    rayStartParams=TEXTS,
    serviceType=_one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
)
WORKERS = _object(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    suspend=FLAG,
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    resources=TEXTS,
    labels=TEXTS,
    rayStartParams=TEXTS,
    template=_core("PodTemplateSpec"),
    scaleStrategy=_object(workersToDelete=_list(TEXT)),
    numOfHosts=POSITIVE,
)
REDIS = _object(valueFrom=_core("EnvVarSource"), value=TEXT)
CLUSTER = _object(
    ("headGroupSpec",),
    upgradeStrategy=_object(type=_one_of("Recreate", "None")),
    authOptions=_object(enableK8sTokenAuth=FLAG, secretName=TEXT, mode=_one_of("disabled", "token")),
    suspend=FLAG,
    managedBy=_one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    autoscalerOptions=AUTOSCALER,
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=_object(
        ("redisAddress",), redisUsername=REDIS, redisPassword=REDIS, externalStorageNamespace=TEXT, redisAddress=TEXT
    ),
    headGroupSpec=HEAD,
    rayVersion=TEXT,
    workerGroupSpecs=_list(WORKERS),
)
SPEC = _object(
    activeDeadlineSeconds=POSITIVE,
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER,
    submitterPodTemplate=_core("PodTemplateSpec"),
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=_object(backoffLimit=COUNT),
    managedBy=_one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=_one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=TEXT,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    ttlSecondsAfterFinished=COUNT,
    preRunningDeadlineSeconds=POSITIVE,
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)
RAYJOB = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata={"$ref": f"{DEFINITIONS}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
    spec=SPEC,
)


@functools.cache
def _validator() -> Draft202012Validator:
    definitions = schema_contents(f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict/_definitions.json", KUBERNETES)
    definitions["$defs"]["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {
        "anyOf": [{"type": "integer"}, {"type": "string", "pattern": QUANTITY}]
    }
    registry: Registry[Any] = Registry().with_resource(DEFINITIONS, Resource.from_contents(definitions))
    return Draft202012Validator(RAYJOB, registry=registry)


def validate(manifest: dict[str, Any]) -> None:
    """Check one document.

    Raises:
        ValidationError: a field that is unknown or absent, or a value that its field does not take.
    """
    if manifest.get("kind") != "RayJob":
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    _validator().validate(manifest)
    for problem in _refusals(manifest):
        raise ValidationError(problem)


def _refusals(job: dict[str, Any]) -> list[str]:
    """What the operator itself checks beyond the schema (ray-operator/controllers/ray/utils/validation.go)."""
    spec = job["spec"]
    cluster = spec.get("rayClusterSpec", {})
    groups = cluster.get("workerGroupSpecs", [])
    templates = [g["template"]["spec"] for g in [cluster.get("headGroupSpec"), *groups] if g]
    version = tuple(int(part) for part in cluster.get("rayVersion", "0").split("."))
    wants_token = cluster.get("authOptions", {}).get("mode") == "token"
    found = {
        "name: a DNS label of 47 characters at most": not re.fullmatch(
            "[a-z]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"]
        ),
        "rayClusterSpec or clusterSelector must be set": not (cluster or spec.get("clusterSelector")),
        "authOptions.mode token needs rayVersion 2.52.0 or newer": wants_token and version < (2, 52, 0),
        "restartPolicy must be Never or unset with autoscaler v2": cluster.get("enableInTreeAutoscaling", False)
        and any(t.get("restartPolicy", "Never") != "Never" for t in templates),
        "minReplicas above maxReplicas": any(g["minReplicas"] > g["maxReplicas"] for g in groups),
        "ttlSecondsAfterFinished needs shutdownAfterJobFinishes": spec.get("ttlSecondsAfterFinished", 0) > 0
        and not spec.get("shutdownAfterJobFinishes", False),
    }
    return [problem for problem, is_so in found.items() if is_so]


def changed(manifest: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a place such as `spec.rayClusterSpec.workerGroupSpecs.0.minReplicas`."""
    copied: dict[str, Any] = copy.deepcopy(manifest)
    *way, last = place.split(".")
    inner: Any = copied
    for step in way:
        inner = inner[int(step) if isinstance(inner, list) else step]
    inner[int(last) if isinstance(inner, list) else last] = value
    return copied
