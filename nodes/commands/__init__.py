"""The commands of ``zserve``, one file each; imported only when they are used."""
