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
		{"three of five, in their order", [][]string{{"http://c", "http://a"}, {"http://b", "http://d", "http://e"}}, []string{"http://c", "http://a", "http://b"}},
		{"none twice", [][]string{{"http://10.0.0.1:80"}, {"http://10.0.0.1/", "http://10.0.0.1:80", "HTTP://10.0.0.1:8080"}}, []string{"http://10.0.0.1:80", "http://10.0.0.1:8080"}},
		{"what is none", [][]string{{"", "a", "ftp://a", "https://a", "http://", "http:///x", "http://a/b", "http://a?b", "http://a?", "http://a#b", "http://u@a", "http:a", "%zz", "http://a b", "http://a\n"}}, nil},
		{"IPv6", [][]string{{"http://[fd00::1]:80/"}}, []string{"http://[fd00::1]:80"}},
	} {
		if got := Nodes(tc.lists...); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func FuzzNodeURL(f *testing.F) {
	for _, s := range []string{"http://10.77.0.1:80", "http://[fd00::1]/", "HTTP://A", "http://a/b?c#d", "http://u:p@h:1"} {
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
		if u, err := url.Parse(base + "/api"); err != nil || u.Hostname() == "" || u.Path != "/api" || u.Scheme != "http" {
			t.Fatalf("%q becomes %q, below which no path is found: %v", s, base, err)
		}
	})
}
