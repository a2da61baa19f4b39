// The original userspace mode of kube-proxy as a contestant: the unchanged proxier of Kubernetes v1.25.16, the last
// series that had it, behind a main of our own.
//
// Usage: userspace FILE
//
// FILE is a JSON object of two lists, "services" and "endpoints", with objects of core/v1; each Service has a
// ClusterIP. They are read once. The program prints "ready" when each port of each Service has its listener and its
// rules, and runs until it is killed; the rules stay, so give it a network namespace. Exit code 2: it was called
// wrongly; 1: it could not start, with one sentence on stderr.
//
// The command kube-proxy of that release cannot be built any more, because not all of its staging modules are to be
// had. What differs from it: there is no API server behind it, so no informers, no Node object, no Events, no health
// and metrics servers and no changes after the start; settings of conntrack and of oom_score_adj are left alone; IPv4
// only; and the compiler is today's. The path of the bytes (listener, choice of the endpoint, dial with its retries,
// copying in both directions) and the iptables rules are the release's own, with its default settings.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/kubernetes/pkg/proxy/userspace"
	"k8s.io/kubernetes/pkg/util/iptables"
	"k8s.io/utils/exec"
)

// The defaults of kube-proxy v1.25.
const (
	syncPeriod     = 30 * time.Second
	minSyncPeriod  = 1 * time.Second
	udpIdleTimeout = 250 * time.Millisecond
)

// objects is the content of FILE.
type objects struct {
	Services  []v1.Service   `json:"services"`
	Endpoints []v1.Endpoints `json:"endpoints"`
}

// announcer is the proxier's load balancer, which is told of each service port last of all: when all are there, the
// proxier serves.
type announcer struct {
	*userspace.LoadBalancerRR
	served sync.WaitGroup
}

// NewService is called by the proxier when a service port has its listener and its rules.
func (a *announcer) NewService(port proxy.ServicePortName, affinity v1.ServiceAffinity, ttlSeconds int) error {
	defer a.served.Done()
	return a.LoadBalancerRR.NewService(port, affinity, ttlSeconds)
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: userspace FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "userspace:", err)
		os.Exit(1)
	}
}

// run serves what the file says, for ever.
func run(path string) error {
	wanted, err := read(path)
	if err != nil {
		return err
	}
	// The proxier demands 64,000 open files, and does without them only in a user namespace with this gate. It asks
	// /proc/self/uid_map whether it is in one.
	gate := map[string]bool{string(features.KubeletInUserNamespace): true}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(gate); err != nil {
		return err
	}
	balancer := &announcer{LoadBalancerRR: userspace.NewLoadBalancerRR()}
	runner := exec.New()
	proxier, err := userspace.NewProxier(balancer, net.IPv4zero, iptables.New(runner, iptables.ProtocolIPv4), runner,
		utilnet.PortRange{}, syncPeriod, minSyncPeriod, udpIdleTimeout, nil)
	if err != nil {
		return err
	}
	for index := range wanted.Services {
		service := &wanted.Services[index]
		balancer.served.Add(len(service.Spec.Ports))
		proxier.OnServiceAdd(service)
	}
	for index := range wanted.Endpoints {
		proxier.OnEndpointsAdd(&wanted.Endpoints[index])
	}
	proxier.OnServiceSynced()
	proxier.OnEndpointsSynced()
	go func() {
		balancer.served.Wait()
		fmt.Println("ready")
	}()
	proxier.SyncLoop()
	return nil
}

// read returns the objects of the file.
func read(path string) (*objects, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found := &objects{}
	if err := json.Unmarshal(content, found); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}
