"""The whole control server in virtual time, without a socket: for tests of orchestrators and of this project."""
