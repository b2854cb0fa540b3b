// Command coredns is a stand-in for CoreDNS in test clusters: Debian has no package of the real one.
//
// It serves what a kubeadm cluster checks (/health on 8080, /ready on 8181), answers A questions for
// NAME.NAMESPACE.svc.cluster.local with the cluster IP it reads from the API, passes other names to
// the first name server of /etc/resolv.conf and says SERVFAIL where it cannot tell.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	zone         = "cluster.local."
	account      = "/var/run/secrets/kubernetes.io/serviceaccount/"
	typeA        = 1
	rcodeOK      = 0
	rcodeFailure = 2
	rcodeNoName  = 3
	headerBytes  = 12
	ttlSeconds   = 5
	refreshEvery = 3 * time.Second
	relayTimeout = 2 * time.Second
)

// services maps "name.namespace.svc.cluster.local." to its cluster IPs; nil until first read.
var services atomic.Value

type serviceList struct {
	Items []struct {
		Metadata struct{ Name, Namespace string }
		Spec     struct{ ClusterIP string }
	}
}

func readServices(client *http.Client) error {
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return err
	}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	request, err := http.NewRequest(http.MethodGet, "https://"+host+"/api/v1/services", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("services: HTTP status %d", response.StatusCode)
	}
	var list serviceList
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return err
	}
	found := map[string]net.IP{}
	for _, item := range list.Items {
		if ip := net.ParseIP(item.Spec.ClusterIP).To4(); ip != nil {
			found[item.Metadata.Name+"."+item.Metadata.Namespace+".svc."+zone] = ip
		}
	}
	services.Store(found)
	return nil
}

func keepServices() {
	pool := x509.NewCertPool()
	if pem, err := os.ReadFile(account + "ca.crt"); err == nil {
		pool.AppendCertsFromPEM(pem)
	}
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
	}
	last := ""
	for {
		said := "reading services: ok"
		if err := readServices(client); err != nil {
			said = "reading services: " + err.Error()
		}
		if said != last {
			log.Print(said)
			last = said
		}
		time.Sleep(refreshEvery)
	}
}

// question returns the name (lower case, with its last dot), type and end of the first question.
func question(packet []byte) (string, uint16, int, error) {
	if len(packet) < headerBytes || binary.BigEndian.Uint16(packet[4:]) == 0 {
		return "", 0, 0, errors.New("no question")
	}
	at, name := headerBytes, strings.Builder{}
	for {
		if at >= len(packet) {
			return "", 0, 0, errors.New("name runs over the end")
		}
		size := int(packet[at])
		at++
		if size == 0 {
			break
		}
		if size > 63 || at+size > len(packet) {
			return "", 0, 0, errors.New("bad label")
		}
		name.Write(packet[at : at+size])
		name.WriteByte('.')
		at += size
	}
	if at+4 > len(packet) {
		return "", 0, 0, errors.New("question runs over the end")
	}
	return strings.ToLower(name.String()), binary.BigEndian.Uint16(packet[at:]), at + 4, nil
}

// reply answers the question of the packet that ends there, with an address or with a code alone.
func reply(packet []byte, end int, code byte, ip net.IP) []byte {
	out := append([]byte{}, packet[:end]...)
	out[2] = 0x84 | packet[2]&0x01 // answer, authoritative, recursion desired as asked
	out[3] = 0x80 | code
	copy(out[4:], []byte{0, 1, 0, 0, 0, 0, 0, 0})
	if ip == nil {
		return out
	}
	out[7] = 1
	out = append(out, 0xc0, headerBytes, 0, typeA, 0, 1)
	out = binary.BigEndian.AppendUint32(out, ttlSeconds)
	out = append(out, 0, net.IPv4len)
	return append(out, ip...)
}

func nameServer() string {
	text, _ := os.ReadFile("/etc/resolv.conf")
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "nameserver" {
			return net.JoinHostPort(fields[1], "53")
		}
	}
	return ""
}

func relay(packet []byte, server string) ([]byte, error) {
	if server == "" {
		return nil, errors.New("no name server")
	}
	connection, err := net.DialTimeout("udp", server, relayTimeout)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(relayTimeout))
	if _, err := connection.Write(packet); err != nil {
		return nil, err
	}
	buffer := make([]byte, 4096)
	size, err := connection.Read(buffer)
	return buffer[:size], err
}

func answer(packet []byte, server string) []byte {
	name, kind, end, err := question(packet)
	if err != nil {
		return nil
	}
	if !strings.HasSuffix("."+name, "."+zone) {
		if out, err := relay(packet, server); err == nil {
			return out
		}
		return reply(packet, end, rcodeFailure, nil)
	}
	known, ready := services.Load().(map[string]net.IP)
	if !ready {
		return reply(packet, end, rcodeFailure, nil)
	}
	ip, exists := known[name]
	switch {
	case !exists:
		return reply(packet, end, rcodeNoName, nil)
	case kind != typeA:
		return reply(packet, end, rcodeOK, nil)
	}
	return reply(packet, end, rcodeOK, ip)
}

func serveUDP(server string) error {
	socket, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	for {
		buffer := make([]byte, 4096)
		size, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		go func() {
			if out := answer(buffer[:size], server); out != nil {
				_, _ = socket.WriteTo(out, from)
			}
		}()
	}
}

func serveTCP(server string) error {
	listener, err := net.Listen("tcp", ":53")
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
			var size [2]byte
			if _, err := io.ReadFull(connection, size[:]); err != nil {
				return
			}
			packet := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(connection, packet); err != nil {
				return
			}
			if out := answer(packet, server); out != nil {
				_, _ = connection.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
			}
		}()
	}
}

func serveHTTP(address, path string) error {
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK")) })
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	return server.ListenAndServe()
}

func main() {
	_ = flag.String("conf", "", "the Corefile of the real program; accepted and not read")
	flag.Parse()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	failed := make(chan error, 4)
	server := nameServer()
	go keepServices()
	go func() { failed <- serveUDP(server) }()
	go func() { failed <- serveTCP(server) }()
	go func() { failed <- serveHTTP(":8080", "/health") }()
	go func() { failed <- serveHTTP(":8181", "/ready") }()
	select {
	case <-stop:
	case err := <-failed:
		log.Fatal(err)
	}
}
