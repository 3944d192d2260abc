"""An archive of studies segmented on a Ray cluster: what `scripts.segment_archive` is made of."""
