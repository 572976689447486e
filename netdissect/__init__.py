"""Network Dissection: which human concepts the units of a layer respond to (Bau et al., CVPR 2017)."""
