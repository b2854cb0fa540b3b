// Command iptables-mode stands behind every iptables name in the kube-proxy image and runs the
// variant (nft or legacy) in which the kubelet of the node made its canary chain, so that both
// write to the same tables. The answer is kept in a file for the life of the container.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	nft     = "/usr/sbin/xtables-nft-multi"
	legacy  = "/usr/sbin/xtables-legacy-multi"
	decided = "/run/iptables-mode"
)

// hasKubeletChain tells whether that variant's mangle table holds a chain only a kubelet makes.
func hasKubeletChain(multi string) bool {
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		command := exec.Command(multi, "-t", "mangle")
		command.Args[0] = save
		out, err := command.Output()
		if err == nil && (bytes.Contains(out, []byte("KUBE-KUBELET-CANARY")) ||
			bytes.Contains(out, []byte("KUBE-IPTABLES-HINT"))) {
			return true
		}
	}
	return false
}

func variant() string {
	if kept, err := os.ReadFile(decided); err == nil {
		return strings.TrimSpace(string(kept))
	}
	found := ""
	switch {
	case hasKubeletChain(nft):
		found = nft
	case hasKubeletChain(legacy):
		found = legacy
	default:
		return nft // not decided yet: ask again at the next call
	}
	_ = os.WriteFile(decided, []byte(found+"\n"), 0o644)
	return found
}

func main() {
	name := filepath.Base(os.Args[0])
	arguments := append([]string{name}, os.Args[1:]...)
	multi := variant()
	if err := syscall.Exec(multi, arguments, os.Environ()); err != nil {
		fmt.Fprintf(os.Stderr, "%s: exec %s: %v\n", name, multi, err)
		os.Exit(127)
	}
}
