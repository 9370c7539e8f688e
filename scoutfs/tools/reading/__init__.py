"""What the commands share that read a volume without mounting it: naming it, walking it, printing names."""
