"""One agent server: the real `kilo serve` (7.7.7), spawned, probed, spoken to, listened to."""
