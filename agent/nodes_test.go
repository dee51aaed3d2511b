package agent

import (
	"slices"
	"testing"
)

func TestWhichNodeIsAsked(t *testing.T) {
	n := newNodes([]string{"a", "b", "c"})
	at := func(want, why string) {
		t.Helper()
		if got := n.now(); got != want {
			t.Fatalf("%s: at %s, want %s", why, got, want)
		}
	}
	at("a", "own first")
	n.heard("b")
	at("a", "there is no reason to leave")
	n.silent("a")
	at("b", "a is silent")
	n.silent("a")
	n.turn("a")
	at("b", "told late of a, by somebody who asked it before")
	n.turn("b")
	at("c", "b cannot help, and a is known to be silent")
	n.turn("c")
	at("b", "c cannot help either; b is there at least")
	n.silent("c")
	n.silent("b")
	at("c", "all are silent: each has its turn")
	n.silent("c")
	at("a", "and again")
	n.heard("a")
	n.heard("b")
	at("a", "it stays with the one that answers")
	n.silent("a")
	at("b", "b was heard since")
}

func TestNodesAreLearned(t *testing.T) {
	n := newNodes([]string{"https://a", "https://b"})
	n.silent("https://a")
	n.learn(nil)
	n.learn([]string{"https://b:443", "https://c/", "ftp://x", "https://d"})
	if want := []string{"https://b", "https://c", "https://d"}; !slices.Equal(n.list, want) || n.now() != "https://b" {
		t.Errorf("%v, at %s; want %v", n.list, n.now(), want)
	}
	n.learn([]string{"https://b"})
	if want := []string{"https://b", "https://c", "https://d"}; !slices.Equal(n.list, want) {
		t.Errorf("%v, want %v: those known before may come back", n.list, want)
	}
}

func TestASilentNodeIsNotAskedForChunks(t *testing.T) {
	n := newNodes([]string{"https://a", "https://b:8080"})
	for url, want := range map[string]string{"https://a:443/chunk/1": "https://a", "http://a:443/chunk/1": "https://a", "http://a/x": "", "http://b:8080/x": "https://b:8080", "https://b/x": "", "https://ab/x": "", "": ""} {
		if got := n.of(url); got != want {
			t.Errorf("%s is below %q, want %q", url, got, want)
		}
	}
	n.silent("https://a")
	if !n.away("http://a:443/chunk/1") || n.away("http://b:8080/chunk/1") || n.away("https://c/chunk/1") {
		t.Error("only what the silent node would serve is given up at once")
	}
	n.silent("https://b:8080")
	if n.away("http://a:443/chunk/1") {
		t.Error("the node whose turn it is now is asked, silent as it was")
	}
}
