package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// ImageList is every image, by name.
type ImageList struct {
	Images []Image `json:"images"`
}

// ImageOrder asks for an image: as the query of an upload, or as the JSON body
// that names a URL to fetch.
type ImageOrder struct {
	Name      string `json:"name" maxLength:"64" pattern:"^[a-z0-9][a-z0-9._-]*$"`
	OSType    string `json:"os_type,omitempty" maxLength:"64" doc:"The name up to its first dash, if not given"`
	OSVersion string `json:"os_version,omitempty" maxLength:"64" doc:"The name after its first dash, if neither is given"`
	SHA256    string `json:"sha256,omitempty" maxLength:"64" doc:"Of the file or of the disk inside; others are refused"`
	URL       string `json:"url,omitempty" maxLength:"2048" doc:"http or https"`
}

func (s *Server) imageRoutes() {
	route(s, http.MethodGet, "/images", 200, door.Viewer, "List images", s.listImages)
	route(s, http.MethodDelete, "/images/{name}", 204, door.Admin, "Forget an image", s.deleteImage)

	reg := s.api.OpenAPI().Components.Schemas
	text := &huma.Schema{Type: huma.TypeString}
	op := huma.Operation{
		OperationID: "post-images", Method: http.MethodPost, Path: "/api/v1/images", Tags: []string{"images"}, DefaultStatus: 201,
		Summary:     "Import an image",
		Description: "The body is the image itself (raw, or packed with gzip, xz or zstd), named by the query; or JSON that names a URL to fetch.",
		Parameters: []*huma.Param{
			{Name: "name", In: "query", Schema: text}, {Name: "os_type", In: "query", Schema: text},
			{Name: "os_version", In: "query", Schema: text}, {Name: "sha256", In: "query", Schema: text},
		},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
			"application/json":         {Schema: reg.Schema(orderType, true, "ImageOrder")},
		}},
		Responses: map[string]*huma.Response{"201": {Description: "Created",
			Content: map[string]*huma.MediaType{"application/json": {Schema: reg.Schema(imageType, true, "Image")}}}},
	}
	s.raw(&op, door.Admin, func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		img, err := s.importImage(w, r)
		if err != nil {
			s.problem(err).WriteTo(w)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		// An error here means that nobody reads the answer any more.
		_ = huma.DefaultJSONFormat.Marshal(w, img)
	})
}

func (s *Server) listImages(context.Context, *struct{}) (*struct{ Body ImageList }, error) {
	list := ImageList{Images: []Image{}}
	p := s.Picture()
	use := p.ImageUse()
	for _, img := range p.Images {
		list.Images = append(list.Images, ImageView(img, use[img.Name]))
	}
	return &struct{ Body ImageList }{list}, nil
}

type imageName struct {
	Name string `path:"name" maxLength:"64"`
}

func (s *Server) deleteImage(ctx context.Context, in *imageName) (*nothing, error) {
	var digest string
	s.cfg.Cluster.View(func(st *fleet.State) {
		if img := st.Image(in.Name); img != nil {
			digest = img.Digest
		}
	})
	if _, err := s.cfg.Cluster.Propose(ctx, fleet.DeleteImage{Name: in.Name}); err != nil {
		return nil, err
	}
	return nil, s.release(digest)
}

// release deletes the bytes of an image that nothing refers to any more.
func (s *Server) release(digest string) error {
	used := digest == ""
	s.cfg.Cluster.View(func(st *fleet.State) {
		for _, img := range st.Images() {
			used = used || img.Digest == digest
		}
		for _, p := range st.MadeProfiles() {
			for _, f := range p.AllFiles() {
				used = used || f.Digest == digest
			}
		}
		for _, t := range st.CurrentTasks() {
			used = used || t.Open() && t.Plan != nil && t.Plan.Image.Digest == digest
		}
	})
	if used {
		return nil
	}
	if err := s.cfg.Images.Delete(digest); err != nil {
		return fmt.Errorf("delete the bytes of image %s: %w", digest, err)
	}
	return nil
}

// importImage takes an image in, from the request's body or from a URL, and
// makes it known. Whatever is refused leaves nothing behind.
func (s *Server) importImage(w http.ResponseWriter, r *http.Request) (*Image, error) {
	order, upload, err := imageOrder(w, r)
	if err != nil {
		return nil, err
	}
	var before string
	s.cfg.Cluster.View(func(st *fleet.State) {
		if img := st.Image(order.Name); img != nil {
			before = img.Digest
		}
	})
	rc := http.NewResponseController(w)
	// The server's own time limits are for requests that fit in memory; here any
	// time is right as long as bytes come. A writer without deadlines has none to lift.
	_ = rc.SetWriteDeadline(time.Time{})
	report := s.importReport(order.Name)
	opts := ImportOptions{SHA256: order.SHA256, Progress: report.progress}
	var got ImportedImage
	source := "upload"
	if upload != nil {
		opts.FileBytes = uint64(max(r.ContentLength, 0))
		got, err = s.cfg.Images.Import(r.Context(), patient{upload, rc}, opts)
	} else {
		source = sourceOf(order.URL)
		got, err = s.cfg.Images.Fetch(r.Context(), order.URL, opts)
	}
	if err != nil {
		report.end(err)
		return nil, importProblem(err)
	}
	// An image can take hours to come, and who was let in then may be nobody now.
	if !s.door.Still(door.CallerOf(r.Context())) {
		err = NewProblem(http.StatusUnauthorized, "you may not any more: your session or token has ended; the image was not kept")
		report.end(err)
		return nil, errors.Join(err, s.release(got.Digest))
	}
	result, err := s.cfg.Cluster.Propose(r.Context(), fleet.PutImage{Image: fleet.Image{Name: order.Name, OSType: order.OSType, OSVersion: order.OSVersion,
		Digest: got.Digest, SizeBytes: got.SizeBytes, Stored: got.StoredBytes, Sector: got.SectorBytes, Arch: got.Arch, Source: source}})
	report.end(err)
	if errors.Is(err, consensus.ErrUncertain) {
		return nil, err // it may be known yet, and then needs its bytes
	}
	if err != nil {
		return nil, errors.Join(err, s.release(got.Digest))
	}
	if before != got.Digest {
		if err := s.release(before); err != nil {
			return nil, err
		}
	}
	put, ok := result.(*fleet.Image)
	if !ok {
		return nil, fmt.Errorf("import image %s: the cluster answered with %T", order.Name, result)
	}
	v := ImageView(put, s.Picture().ImageUse()[order.Name])
	return &v, nil
}

// sourceOf is where an image came from, as everybody may read it: the name, the
// password and the query of an address can be keys.
func sourceOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "url"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// imageOrder reads what is asked for. The body is not read when it is the image.
func imageOrder(w http.ResponseWriter, r *http.Request) (o ImageOrder, upload io.Reader, err error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "application/json":
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			return o, nil, NewProblem(http.StatusRequestEntityTooLarge, "the JSON body is cut or larger than 1 MiB; send an image as application/octet-stream")
		}
		if o, err = decodeOrder(body); err != nil {
			return o, nil, err
		}
	case "", "application/octet-stream", "application/gzip", "application/x-xz", "application/zstd":
		q := r.URL.Query()
		o = ImageOrder{Name: q.Get("name"), OSType: q.Get("os_type"), OSVersion: q.Get("os_version"), SHA256: q.Get("sha256")}
		upload = r.Body
	default:
		return o, nil, NewProblem(http.StatusUnsupportedMediaType, "send the image as application/octet-stream, or JSON that names a URL")
	}
	if err := o.complete(); err != nil {
		return o, nil, err
	}
	if upload == nil {
		u, err := url.Parse(o.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return o, nil, fieldProblem("url", "url has to be an http or https address")
		}
		if u.Scheme == "http" && o.SHA256 == "" {
			return o, nil, fieldProblem("sha256", "over plain http anybody on the way can put another image in its place: give the sha256 of this one, or an https address")
		}
	}
	return o, upload, nil
}

// complete checks an order and fills in what its name says.
func (o *ImageOrder) complete() error {
	if !fleet.ValidName(o.Name) {
		return fieldProblem("name", fmt.Sprintf("image name %.80q: use a-z, 0-9, dot, dash and underscore, 64 at most", o.Name))
	}
	if o.SHA256 != "" && !wire.IsDigest(o.SHA256) {
		return fieldProblem("sha256", "sha256 has to be 64 hex digits, lower case")
	}
	if o.OSType == "" {
		o.OSType, o.OSVersion = splitName(o.Name)
	}
	if asked := (fleet.Spec{OSType: o.OSType, OSVersion: o.OSVersion}).ImageName(); asked != o.Name {
		return fieldProblem("name", fmt.Sprintf("a task for os_type %.64q and os_version %.64q asks for image %q, not %q", o.OSType, o.OSVersion, clip(asked), o.Name))
	}
	return nil
}

// importProblem tells a failed import: nearly always it is the image's fault.
func importProblem(err error) error {
	var p *Problem
	var refused *fleet.Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p), errors.As(err, &refused), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.As(err, &tooLarge):
		return NewProblem(http.StatusInsufficientStorage, err.Error())
	}
	return NewProblem(http.StatusBadRequest, err.Error())
}

// patient reads a body that takes as long as it takes, but never stands still
// for more than a minute.
type patient struct {
	io.Reader
	rc *http.ResponseController
}

func (p patient) Read(b []byte) (int, error) {
	// A connection without deadlines is waited for as it is.
	_ = p.rc.SetReadDeadline(time.Now().Add(time.Minute))
	return p.Reader.Read(b)
}

// importReport tells how an import goes, four times a second at most.
type importReport struct {
	mu   sync.Mutex
	send func(ImportProgress)
	now  func() time.Time
	last time.Time
	p    ImportProgress
}

func (s *Server) importReport(name string) *importReport {
	return &importReport{send: s.cfg.OnImport, now: s.cfg.Now, p: ImportProgress{Name: name}}
}

func (r *importReport) progress(read uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p.BytesRead = read
	if now := r.now(); r.send != nil && now.Sub(r.last) >= 250*time.Millisecond {
		r.last = now
		r.send(r.p)
	}
}

func (r *importReport) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p.Done = true
	if err != nil {
		r.p.Error = err.Error()
	}
	if r.send != nil {
		r.send(r.p)
	}
}
