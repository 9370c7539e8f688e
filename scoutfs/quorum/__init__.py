"""Who is the leader: the election, its blocks on disk, its agent, and fencing."""
