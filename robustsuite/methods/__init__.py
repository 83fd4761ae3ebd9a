"""The maths that two plugins, or a plugin and a scenario, share: one method or tool a file."""
