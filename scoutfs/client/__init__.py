"""The client that every mount has: finding the server, greeting, requests, farewell."""
