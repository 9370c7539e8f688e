"""The FUSE face: options, the mount helper, pyfuse3 operations, the `.scoutfs` control directory."""
