package kube

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// RenderSmokeJob makes the Job that a component is checked with (smokeJob of component.yaml),
// in the same way as [Render] makes what is deployed. What its pods may touch is refused
// when it is more than Pod Security's level "restricted" allows, also where the namespace
// allows more: a check is no way around that.
func RenderSmokeJob(in RenderInput) (*unstructured.Unstructured, error) {
	job, err := renderSmokeJob(in)
	if err != nil {
		return nil, fmt.Errorf("component %s: smokeJob: %w", in.Component.Name, err)
	}
	return job, nil
}

func renderSmokeJob(in RenderInput) (*unstructured.Unstructured, error) {
	if in.Component.SmokeJob == nil {
		return nil, errors.New("there is none")
	}
	folder := in.Component.SmokeJob.Kustomize
	objs, err := kustomize(in, folder, folder)
	if err != nil {
		return nil, err
	}
	if len(objs) != 1 || objs[0].GetKind() != "Job" || objs[0].GetAPIVersion() != "batch/v1" {
		var kinds []string
		for _, o := range objs {
			kinds = append(kinds, refOf(o).String())
		}
		return nil, fmt.Errorf("renders %s; must be one Job of batch/v1: what it needs besides, such as a ServiceAccount, "+
			"belongs to what the component deploys", strings.Join(kinds, ", "))
	}
	job := objs[0]
	if err := finish(in, job, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", refOf(job), err)
	}
	if ns := job.GetNamespace(); ns != in.Component.Namespace {
		return nil, fmt.Errorf("%s: must be in the component's namespace, %s", refOf(job), in.Component.Namespace)
	}
	pod, _, err := unstructured.NestedMap(job.Object, "spec", "template", "spec")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", refOf(job), err)
	}
	if wrong := restricted(pod); wrong != nil {
		return nil, fmt.Errorf("%s: spec.template.spec: %s", refOf(job), strings.Join(wrong, "; "))
	}
	return job, nil
}

// restrictedVolumes are the kinds of volumes that the level allows.
var restrictedVolumes = []string{"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}

// restricted says in what a pod of a check is beyond Pod Security's level "restricted"
// (https://kubernetes.io/docs/concepts/security/pod-security-standards/), or has more than
// the one container whose lines are read.
func restricted(pod map[string]any) (wrong []string) {
	bad := func(format string, a ...any) { wrong = append(wrong, fmt.Sprintf(format, a...)) }
	field := func(o map[string]any, path ...string) any {
		v, _, _ := unstructured.NestedFieldNoCopy(o, path...)
		return v
	}
	for _, name := range []string{"hostNetwork", "hostPID", "hostIPC"} {
		if pod[name] == true {
			bad("%s is true; a check has no part of its node", name)
		}
	}
	if pod["serviceAccountName"] == nil && pod["automountServiceAccountToken"] != false {
		bad("automountServiceAccountToken must be false, or serviceAccountName name an account of the component's")
	}
	if field(pod, "securityContext", "sysctls") != nil {
		bad("securityContext.sysctls must not be set")
	}
	volumes, _ := pod["volumes"].([]any)
	for i, v := range volumes {
		volume, _ := v.(map[string]any)
		for kind := range volume {
			if kind != "name" && !slices.Contains(restrictedVolumes, kind) {
				bad("volumes[%d].%s: must be one of %s", i, kind, strings.Join(restrictedVolumes, ", "))
			}
		}
	}
	containers, _ := pod["containers"].([]any)
	if len(containers) != 1 || pod["initContainers"] != nil || pod["ephemeralContainers"] != nil {
		bad("must have one container, whose lines are the results, and no others")
	}
	for i, c := range containers {
		container, _ := c.(map[string]any)
		at := fmt.Sprintf("containers[%d]", i)
		// What a container says is what holds for it.
		of := func(name ...string) any {
			if v := field(container, append([]string{"securityContext"}, name...)...); v != nil {
				return v
			}
			return field(pod, append([]string{"securityContext"}, name...)...)
		}
		if of("runAsNonRoot") != true || of("runAsUser") == int64(0) {
			bad("%s.securityContext.runAsNonRoot must be true, and runAsUser not 0", at)
		}
		if t := of("seccompProfile", "type"); t != "RuntimeDefault" && t != "Localhost" {
			bad("%s.securityContext.seccompProfile.type must be RuntimeDefault", at)
		}
		if t := of("appArmorProfile", "type"); t == "Unconfined" {
			bad("%s.securityContext.appArmorProfile.type must not be Unconfined", at)
		}
		if of("seLinuxOptions") != nil || of("windowsOptions", "hostProcess") == true || of("procMount") != nil && of("procMount") != "Default" {
			bad("%s.securityContext must not set seLinuxOptions, procMount or hostProcess", at)
		}
		if of("allowPrivilegeEscalation") != false || of("privileged") == true {
			bad("%s.securityContext.allowPrivilegeEscalation must be false", at)
		}
		drop, _ := of("capabilities", "drop").([]any)
		add, _ := of("capabilities", "add").([]any)
		if !slices.Contains(drop, any("ALL")) || slices.ContainsFunc(add, func(c any) bool { return c != "NET_BIND_SERVICE" }) {
			bad("%s.securityContext.capabilities must drop ALL and add none", at)
		}
		ports, _ := container["ports"].([]any)
		for j, p := range ports {
			if port, _ := p.(map[string]any); port["hostPort"] != nil {
				bad("%s.ports[%d].hostPort must not be set", at, j)
			}
		}
		if field(container, "resources", "limits", "memory") == nil || field(container, "resources", "limits", "cpu") == nil {
			bad("%s.resources.limits must bound cpu and memory", at)
		}
	}
	return wrong
}
