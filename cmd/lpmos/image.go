package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/images/osimage"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func imageCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Import, build and list OS images"}
	list := &cobra.Command{Use: "list", Short: "List images", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.Images(cmd.Context())
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), all, func(w io.Writer) {
				row(w, "NAME", "SIZE", "STORED", "USED BY", "DIGEST", "IMPORTED")
				for _, i := range all {
					row(w, i.Name, size(i.SizeBytes), size(i.StoredBytes), i.UsedBy, i.Digest, when(i.CreatedAt))
				}
			})
		})}

	var order api.ImageOrder
	imp := &cobra.Command{Use: "import FILE|URL", Short: "Import a disk image: raw, or packed with gzip, xz or zstd", Args: exactly(1, "a file, an http(s) URL, or - for standard input"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			img, err := importImage(cmd.Context(), c, order, args[0], cmd.InOrStdin(), terminal(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), img, func(w io.Writer) {
				row(w, "imported", img.Name, size(img.SizeBytes), "stored "+size(img.StoredBytes), img.Digest)
			})
		})}
	imp.Flags().StringVar(&order.Name, "name", "", "what people choose it by (the file's name without its endings if not given)")
	imp.Flags().StringVar(&order.OSType, "os", "", "what it is, for instance debian (the name up to its first dash)")
	imp.Flags().StringVar(&order.OSVersion, "os-version", "", "its version, for instance 12")
	imp.Flags().StringVar(&order.SHA256, "sha256", "", "refuse it unless the file, or the disk in it, has this SHA-256")

	remove := &cobra.Command{Use: "delete NAME", Short: "Forget an image that no open task uses", Args: exactly(1, "an image's name"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if err := c.DeleteImage(cmd.Context(), args[0]); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), "deleted", args[0])
		})}
	cmd.AddCommand(list, imp, remove, imageBuild())
	return cmd
}

// importImage sends a file, standard input or the address of an image to the
// node. How far it has come goes to progress, if that is not nil.
func importImage(ctx context.Context, c *client.Client, o api.ImageOrder, from string, stdin io.Reader, progress io.Writer) (api.Image, error) {
	if o.Name == "" {
		if from == "-" {
			return api.Image{}, &usageError{errors.New("an image from standard input needs --name")}
		}
		o.Name = imageName(from)
	}
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		o.URL = from
		return c.FetchImage(ctx, o)
	}
	if from == "-" {
		return c.UploadImage(ctx, o, stdin)
	}
	f, err := os.Open(from)
	if err != nil {
		return api.Image{}, fmt.Errorf("read image: %w", err)
	}
	defer f.Close()
	if progress == nil {
		return c.UploadImage(ctx, o, f)
	}
	info, err := f.Stat()
	if err != nil {
		return api.Image{}, fmt.Errorf("read image: %w", err)
	}
	img, err := c.UploadImage(ctx, o, &upload{file: f, total: info.Size(), out: progress, now: time.Now})
	fmt.Fprint(progress, clearLine)
	return img, err
}

// imageName is a file's name, or an address's last word, without the endings
// that tell how it is packed.
func imageName(from string) string {
	if u, err := url.Parse(from); err == nil && u.Host != "" {
		from = u.Path
	}
	name := filepath.Base(from)
	for {
		switch ext := filepath.Ext(name); ext {
		case ".gz", ".xz", ".zst", ".raw", ".img":
			name = strings.TrimSuffix(name, ext)
		default:
			return name
		}
	}
}

func imageBuild() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "build " + strings.Join(osimage.Names(), "|"), Short: "Make a bootable image (BIOS and UEFI) from Debian packages", Args: exactly(1, "what to build: "+strings.Join(osimage.Names(), " or ")),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(osimage.Names(), args[0]) {
				return &usageError{fmt.Errorf("nobody knows how to build %q; there are %s", args[0], strings.Join(osimage.Names(), " and "))}
			}
			if out == "" {
				out = args[0] + ".raw"
			}
			start := time.Now()
			err := osimage.Build(cmd.Context(), args[0], out, func(format string, a ...any) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, a...))
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), out)
			return nil
		}}
	cmd.Flags().StringVar(&out, "out", "", "file to write (NAME.raw if not given)")
	return cmd
}
