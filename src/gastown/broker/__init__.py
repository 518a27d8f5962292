"""The loopback proxy through which agents reach the worker API and the LLM gateway, without the town's secrets."""
