package wire

import (
	"net/url"
	"slices"
	"testing"
)

func TestNodes(t *testing.T) {
	for _, tc := range []struct {
		name  string
		lists [][]string
		want  []string
	}{
		{"none", nil, nil},
		{"three of five, in their order", [][]string{{"https://c", "https://a"}, {"https://b", "https://d", "https://e"}}, []string{"https://c", "https://a", "https://b"}},
		{"none twice", [][]string{{"https://10.0.0.1:443"}, {"https://10.0.0.1/", "https://10.0.0.1:443", "HTTPS://10.0.0.1:8080"}}, []string{"https://10.0.0.1:443", "https://10.0.0.1:8080"}},
		{"what is none", [][]string{{"", "a", "ftp://a", "http://a", "https://", "https:///x", "https://a/b", "https://a?b", "https://a?", "https://a#b", "https://u@a", "https:a", "%zz", "https://a b", "https://a\n"}}, nil},
		{"IPv6", [][]string{{"https://[fd00::1]:80/"}}, []string{"https://[fd00::1]:80"}},
	} {
		if got := Nodes(tc.lists...); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func FuzzNodeURL(f *testing.F) {
	for _, s := range []string{"https://10.77.0.1:80", "https://[fd00::1]/", "HTTPS://A", "https://a/b?c#d", "https://u:p@h:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		base, ok := NodeURL(s)
		if !ok {
			return
		}
		if again, ok := NodeURL(base); !ok || again != base {
			t.Fatalf("%q becomes %q becomes %q", s, base, again)
		}
		if u, err := url.Parse(base + "/api"); err != nil || u.Hostname() == "" || u.Path != "/api" || u.Scheme != "https" {
			t.Fatalf("%q becomes %q, below which no path is found: %v", s, base, err)
		}
	})
}
