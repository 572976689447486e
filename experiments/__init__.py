"""Studies: the paper's claims, measured on data that anybody can have."""
