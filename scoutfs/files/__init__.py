"""Files of a volume, without FUSE: what items say of inodes, directories, attributes and data, and changing them."""
