"""Renders deploy/helm/nobat with helm and holds what comes out to schemas and to itself.

`scripts/check_helm` runs it. For each values file beside this one: helm's own lint; every object by Kubernetes'
schema, those of operators by their CRDs' schemas (as Python models, unknown fields refused); then references
between the objects. At last, values that must be refused.
"""

import json
import pathlib
import subprocess
import sys

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as monitoring

HERE = pathlib.Path(__file__).parent
CHART = HERE.parent.parent / "deploy" / "helm" / "nobat"
CUSTOM = {
    "ScaledObject": keda.ScaledObject,
    "TriggerAuthentication": keda.TriggerAuthentication,
    "ServiceMonitor": monitoring.ServiceMonitor,
    "PrometheusRule": monitoring.PrometheusRule,
}
REFUSED = {
    "who may call?": ["worker.models.volume.hostPath.path=/m"],
    "where are the models of worker default?": ["gateway.insecure=true"],
    "which jobs does worker default run?": [
        "gateway.insecure=true", "worker.models.volume.hostPath.path=/m", "worker.autoscaling.enabled=true"],
    "minimum": ["gateway.insecure=true", "worker.models.volume.hostPath.path=/m", "gateway.replicas=0"],
    "replcas": ["gateway.insecure=true", "worker.models.volume.hostPath.path=/m", "workers.default.replcas=3"],
}


def helm(*words):
    return subprocess.run(["helm", *words], capture_output=True, text=True)


def render(*words):
    done = helm("template", "prod", str(CHART), "--namespace", "ml", "--kube-version", "1.37.0", *words)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def unknown(sent, kept, at=""):
    """Fields of `sent` that a schema's model did not keep."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        for key, value in sent.items():
            if key not in kept:
                yield f"{at}.{key}"
            else:
                yield from unknown(value, kept[key], f"{at}.{key}")
    elif isinstance(sent, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(sent, kept)):
            yield from unknown(one, other, f"{at}[{index}]")


def check_schema(thing):
    kind = thing["kind"]
    if kind in CUSTOM:
        kept = json.loads(CUSTOM[kind].model_validate(thing).model_dump_json(by_alias=True, exclude_unset=True))
        lost = list(unknown(thing["spec"], kept["spec"], "spec"))
        assert not lost, f"{kind} has no {lost}"
    else:
        kubernetes_validate.validate(thing, "1.37", strict=True)


def matches(labels, selector):
    return selector.items() <= labels.items()


def check_references(things, outside):
    """What one object says of another is so. `outside` are secrets and volumes that the values name."""
    by_kind = lambda *kinds: [thing for thing in things if thing["kind"] in kinds]
    name = lambda thing: thing["metadata"]["name"]
    names = [(thing["kind"], name(thing)) for thing in things]
    assert len(names) == len(set(names)), names
    pods = [(thing, thing["spec"]["template"]) for thing in by_kind("Deployment", "StatefulSet")]
    for thing, pod in pods:
        labels, spec = pod["metadata"]["labels"], pod["spec"]
        assert matches(labels, thing["spec"]["selector"]["matchLabels"]), name(thing)
        assert sum(matches(other["metadata"]["labels"], thing["spec"]["selector"]["matchLabels"]) for _, other in pods) == 1
        assert spec["securityContext"]["runAsNonRoot"] and spec["enableServiceLinks"] is False, name(thing)
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        volumes.update({claim["metadata"]["name"]: claim for claim in thing["spec"].get("volumeClaimTemplates", [])})
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name(thing)
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                assert port is None or port in ports, (name(thing), probe)
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes), name(thing)
            for variable in container.get("env", []):
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                if secret:
                    own = [one for one in by_kind("Secret") if name(one) == secret["name"]]
                    assert secret["name"] in outside or secret["key"] in own[0]["stringData"], secret
        for volume in volumes.values():
            for kind, key, field in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
                wanted = volume.get(key, {}).get(field)
                assert wanted is None or (kind, wanted) in names or wanted in outside, wanted
    selectors = [(name(thing), thing["spec"]["selector"]) for thing in by_kind("Service")]
    selectors += [(name(thing), thing["spec"]["selector"]["matchLabels"]) for thing in by_kind("PodDisruptionBudget")]
    for policy in by_kind("NetworkPolicy"):
        peers = [peer for rule in policy["spec"].get("ingress", []) for peer in rule.get("from", [])]
        peers += [peer for rule in policy["spec"].get("egress", []) for peer in rule.get("to", [])]
        inside = [peer["podSelector"] for peer in peers if "podSelector" in peer and "namespaceSelector" not in peer]
        selectors += [(name(policy), one["matchLabels"]) for one in [policy["spec"]["podSelector"], *inside]]
    for owner, selector in selectors:
        assert any(matches(pod["metadata"]["labels"], selector) for _, pod in pods), f"{owner} selects no pod"
    for monitor in by_kind("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [one for one in by_kind("Service") if matches(one["metadata"]["labels"], wanted)]
        assert len(found) == 1 and found[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "nobat"
    for ingress in by_kind("Ingress"):
        backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        service = next(one for one in by_kind("Service") if name(one) == backend["name"])
        assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    scaled = {}
    for scaler in by_kind("HorizontalPodAutoscaler", "ScaledObject"):
        scaled.setdefault(scaler["spec"]["scaleTargetRef"]["name"], []).append(scaler)
    for deployment in by_kind("Deployment"):
        scalers = scaled.pop(name(deployment), [])
        assert len(scalers) == (0 if "replicas" in deployment["spec"] else 1), name(deployment)
    assert not scaled, f"scalers of nothing: {scaled}"
    for scaler in by_kind("ScaledObject"):
        triggers = {trigger["name"] for trigger in scaler["spec"]["triggers"]}
        assert set(scaler["spec"]["advanced"]["scalingModifiers"]["formula"].split(" + ")) == triggers
        for trigger in scaler["spec"]["triggers"]:
            wanted = trigger.get("authenticationRef", {}).get("name")
            assert wanted is None or ("TriggerAuthentication", wanted) in names
            host = trigger["metadata"]["url"].split("/")[2].split(":")[0]
            assert host in {f"{name(service)}.ml" for service in by_kind("Service")}, host
    for scaler in by_kind("HorizontalPodAutoscaler"):
        assert scaler["spec"]["minReplicas"] >= 1


def main():
    for values in sorted(HERE.glob("*.yaml")):
        lint = helm("lint", "--strict", str(CHART), "--values", str(values))
        assert lint.returncode == 0, lint.stdout + lint.stderr
        things = render("--values", str(values))
        for thing in things:
            try:
                check_schema(thing)
            except Exception as error:
                raise AssertionError(f"{values.stem}: {thing['kind']} {thing['metadata']['name']}: {getattr(error, 'message', error)}") from error
        given = yaml.safe_load(values.read_text())
        outside = {section.get("existingSecret") for section in
                   (given.get("redis", {}), given["gateway"].get("keys", {}), given["gateway"].get("tls", {}))}
        check_references(things, outside)
        print(f"check_helm: {values.stem}: {len(things)} objects: " + " ".join(sorted({thing["kind"] for thing in things})))
    kinds = {thing["kind"] for thing in render("--values", str(HERE / "full.yaml"))}
    assert {"HorizontalPodAutoscaler", "Ingress", *CUSTOM} <= kinds and "StatefulSet" not in kinds, kinds
    for words, settings in REFUSED.items():
        done = helm("template", "prod", str(CHART), *[part for one in settings for part in ("--set", one)])
        assert done.returncode != 0 and words in done.stderr, f"{settings}: {done.stderr or 'not refused'}"
    print(f"check_helm: {len(REFUSED)} wrong values are refused with the remedy")


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"check_helm: {error}")
