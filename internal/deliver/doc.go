// Package deliver takes hits to the database and from there to SikkerAPI. The Recorder is between
// memory and the database: only its Run waits for the disk. The Courier is between the database and
// the API.
//
// The Recorder also decides which hits are evidence of an attempt and so become report rows. Rows
// about an allowlisted source are withdrawn, also from a batch that waits to be sent again.
//
// A database or an API that fails is a condition and is tried again. Hits wait in memory meanwhile;
// hits that find no room there are counted.
package deliver
