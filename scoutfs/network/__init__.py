"""TCP messages: framing and resending without I/O, connections and the listener on top."""
