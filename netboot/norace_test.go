//go:build !race

package netboot

// raceDetector says that the tests run under the race detector.
const raceDetector = false
