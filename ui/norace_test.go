//go:build !race

package ui

// raceDetector says that the tests run under the race detector.
const raceDetector = false
