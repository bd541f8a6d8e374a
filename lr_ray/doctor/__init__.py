"""What a machine has and lacks for this program: facts, checks on them, and the job that prints both."""
