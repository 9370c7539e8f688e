"""Files of a volume: what items say of inodes, directories, attributes and data, without FUSE."""
