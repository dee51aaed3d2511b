package fleet

import "github.com/lpmos/lpmos/agent/wire"

func (b PutImage) apply(s *State, c Command) (any, error) {
	img := b.Image
	switch {
	case !ValidName(img.Name):
		return nil, invalid("name", "image name %q: use a-z, 0-9, dot, dash and underscore, 64 at most", img.Name)
	case !wire.IsDigest(img.Digest):
		return nil, invalid("digest", "image %s: %q is not a digest", img.Name, img.Digest)
	case img.SizeBytes == 0:
		return nil, invalid("size_bytes", "image %s is empty", img.Name)
	}
	img.CreatedAt = c.At
	s.images[img.Name] = &img
	s.events = append(s.events, Event{Type: EventImage, Name: img.Name, Image: &img})
	s.noteAct(c, AuditRecord{Image: img.Digest, What: who(c.Actor) + " put image " + img.Name + " in place"})
	return &img, nil
}

func (b DeleteImage) apply(s *State, c Command) (any, error) {
	img := s.images[b.Name]
	if img == nil {
		return nil, refuse(NotFound, "there is no image %s", b.Name)
	}
	for _, t := range s.CurrentTasks() { // in order: every node gives the same answer
		if t.Open() && t.Spec.ImageName() == b.Name {
			return nil, refuse(Conflict, "image %s is used by open task %s", b.Name, t.ID)
		}
	}
	delete(s.images, b.Name)
	s.events = append(s.events, Event{Type: EventImageDeleted, Name: b.Name})
	s.noteAct(c, AuditRecord{Image: img.Digest, What: who(c.Actor) + " deleted image " + img.Name})
	return img, nil
}
