"""The rules of the house as tests: who may import whom, what a module may do, what csrc may hold."""
