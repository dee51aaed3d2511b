package images

import "golang.org/x/sys/unix"

// freeSpace is the number of bytes an unprivileged writer may still use on the
// file system of dir.
func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}
