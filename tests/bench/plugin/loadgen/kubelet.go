// The kubelet's side of the two sockets: find, register, prepare, unprepare.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	pollInterval = 500 * time.Microsecond
	// callTimeout is the kubelet's own deadline for a prepare or unprepare.
	callTimeout = 45 * time.Second
)

// services are the DRA services that the kubelet of this client speaks, as plugins announce them.
var services = map[string]string{
	"v1.DRAPlugin":      "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/",
	"v1beta1.DRAPlugin": "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/",
}

// plugin is a registered DRA plugin: one connection, as the kubelet keeps it.
type plugin struct {
	conn    *grpc.ClientConn
	service string
}

// registration says when (ns since the epoch) each step of becoming usable was seen.
type registration struct {
	DraSocketNs  int64    `json:"dra_socket_ns"`
	RegSocketNs  int64    `json:"reg_socket_ns"`
	RegisteredNs int64    `json:"registered_ns"`
	Name         string   `json:"name"`
	Endpoint     string   `json:"endpoint"`
	Versions     []string `json:"versions"`
}

// register waits for both sockets, then asks GetInfo, connects to the service and tells the plugin that it is accepted.
func register(registry, plugins, driver string, timeout time.Duration) (*plugin, registration, error) {
	var r registration
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	regSocket, err := waitForSockets(ctx, registry, filepath.Join(plugins, driver), driver, &r)
	if err != nil {
		return nil, r, err
	}
	info, notify, err := getInfo(ctx, regSocket)
	if err != nil {
		return nil, r, err
	}
	r.Name, r.Endpoint, r.Versions = info.Name, info.Endpoint, info.Versions
	p, err := connect(info)
	if err != nil {
		return nil, r, err
	}
	if err := notify(); err != nil {
		return nil, r, fmt.Errorf("NotifyRegistrationStatus: %w", err)
	}
	r.RegisteredNs = time.Now().UnixNano()
	return p, r, nil
}

// waitForSockets polls until the service socket and the registration socket exist and notes when each was seen.
func waitForSockets(ctx context.Context, registry, data, driver string, r *registration) (string, error) {
	var regSocket string
	for r.DraSocketNs == 0 || r.RegSocketNs == 0 {
		if r.DraSocketNs == 0 && findSocket(data, "dra") != "" {
			r.DraSocketNs = time.Now().UnixNano()
		}
		if r.RegSocketNs == 0 {
			if regSocket = findSocket(registry, driver); regSocket != "" {
				r.RegSocketNs = time.Now().UnixNano()
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no sockets of %s in %s and %s in time", driver, registry, data)
		case <-time.After(pollInterval):
		}
	}
	return regSocket, nil
}

// findSocket returns the first socket of a directory whose name starts so; names that begin with a dot do not count.
func findSocket(dir, prefix string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && e.Type()&os.ModeSocket != 0 {
			return filepath.Join(dir, e.Name())
		}
	}
	return ""
}

// getInfo dials the registration socket as the kubelet does, through a dialer of its own. A refusal means that the
// plugin has bound but does not listen yet, so it is asked again.
func getInfo(ctx context.Context, socket string) (pluginInfo, func() error, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	conn, err := grpc.NewClient("passthrough:///"+socket, grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return pluginInfo{}, nil, err
	}
	const service = "/pluginregistration.Registration/"
	var reply []byte
	for {
		err = conn.Invoke(ctx, service+"GetInfo", &[]byte{}, &reply, grpc.ForceCodec(rawCodec{}))
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			conn.Close()
			return pluginInfo{}, nil, fmt.Errorf("GetInfo: %w", err)
		}
		time.Sleep(pollInterval)
		conn.ResetConnectBackoff()
	}
	info, err := parsePluginInfo(reply)
	notify := func() error {
		defer conn.Close()
		status := registrationStatus()
		return conn.Invoke(ctx, service+"NotifyRegistrationStatus", &status, &reply, grpc.ForceCodec(rawCodec{}))
	}
	return info, notify, err
}

// connect opens the one connection to the service, by the first announced version that the kubelet speaks.
func connect(info pluginInfo) (*plugin, error) {
	for _, version := range info.Versions {
		service, known := services[version]
		if !known {
			continue
		}
		conn, err := grpc.NewClient("unix:"+info.Endpoint,
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		conn.Connect()
		return &plugin{conn: conn, service: service}, nil
	}
	return nil, fmt.Errorf("no DRA service among %v", info.Versions)
}

// prepare asks for claims of one pod in one call and checks the answers.
func (p *plugin) prepare(claims ...claim) error {
	return p.call("NodePrepareResources", claims, true)
}

// unprepare gives claims back in one call and checks the answers.
func (p *plugin) unprepare(claims ...claim) error {
	return p.call("NodeUnprepareResources", claims, false)
}

func (p *plugin) call(method string, claims []claim, prepared bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	request := claimsRequest(claims)
	var reply []byte
	err := p.conn.Invoke(ctx, p.service+method, &request, &reply, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	answers, err := parseAnswers(reply, prepared)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if err := checkAnswers(claims, answers, prepared); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}
