//go:build race

package netboot

// raceDetector says that the tests run under it.
const raceDetector = true
