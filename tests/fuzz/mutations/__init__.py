"""The mutations, by kind of input; importing the package registers them in `cases.KINDS`."""

from mutations import flags, folders, frozen, labels, pixels, resumes, settings_file, snapshots, tables, trees

__all__ = ["flags", "folders", "frozen", "labels", "pixels", "resumes", "settings_file", "snapshots", "tables", "trees"]
