//go:build race

package ui

// raceDetector says that the tests run under it.
const raceDetector = true
