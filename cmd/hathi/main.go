// Command hathi runs and operates highly available PostgreSQL.
package main

func main() {}
