package wire

import (
	"net/url"
	"strings"
)

// MaxNodes is how many nodes an agent knows: its own and two to turn to.
const MaxNodes = 3

// NodeURL gives the base URL of a node as everybody writes it; ok is false for
// what is none: an agent speaks HTTPS to a host, below no path.
func NodeURL(s string) (base string, ok bool) {
	u, err := url.Parse(strings.TrimSuffix(s, "/"))
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "" || u.User != nil ||
		u.Path != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#") {
		return "", false
	}
	return "https://" + strings.ToLower(u.Host), true
}

// Nodes joins lists of base URLs into one: those of the first list first, none
// twice, MaxNodes at most. What is no base URL is left out.
func Nodes(lists ...[]string) []string {
	var out []string
	seen := map[string]bool{}
	for _, list := range lists {
		for _, s := range list {
			base, ok := NodeURL(s)
			name := strings.TrimSuffix(base, ":443") // with and without, it is one node
			if ok && !seen[name] && len(out) < MaxNodes {
				seen[name] = true
				out = append(out, base)
			}
		}
	}
	return out
}

// PlainURL is where a node at this base URL answers without TLS: on the same port,
// where the first byte decides. It is for what proves itself, and for who cannot
// know the cluster.
func PlainURL(base string) string {
	host, ok := strings.CutPrefix(base, "https://")
	if !ok {
		return base
	}
	return "http://" + host
}
