"""The command `tidelock`: what operators and deployments of applications need of the SDK."""
