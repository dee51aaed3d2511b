// Package journey proves the whole way: machines with real firmware netboot
// from a real node in a network namespace, are approved, installed, and come up
// from their own disks. Its tests have the build tag journey, need bin/lpmos and
// the tiny image, and are run by `make test-journey`.
package journey
