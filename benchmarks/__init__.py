"""How fast everything is: ``python -m benchmarks.run_model`` and the like, from the checkout's root."""
