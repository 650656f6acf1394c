// Package sikkerapi is a client of SikkerAPI, the threat intelligence service: its blacklist, bulk
// reports, the check of one address and the state of the account.
//
// A Client sends a request once and returns the result. The caller decides when to try again; the
// errors are made for that decision:
//
//   - [ErrUnauthorized] (inside an *[APIError]): the key is missing, invalid, disabled or expired.
//     Only another key helps.
//   - *[QuotaError]: the daily quota of the endpoint is used up. Wait for RetryAfter.
//   - *[TemporaryError]: no answer, an answer cut short, a 5xx, a limit of requests at a time, or a
//     refusal that is not from the API itself, but for example from a CDN. Try again later, not
//     sooner than RetryAfter.
//   - *[APIError]: any other answer that is not 200, including redirects ([ErrRedirect]), which are
//     never followed.
//   - *[TooLargeError], [ErrDecompress], [ErrMalformed]: an answer that this package cannot read.
//   - the error of the context, if the context of the caller ended.
//
// Check, Status and BulkReport end after two minutes at most. Blacklist and BlacklistJSON may
// transfer many megabytes, and only the caller knows how slow is too slow. Their context applies
// until the body is closed, so give it a deadline.
//
// The API is not trusted. Every answer is limited in size after decompression. Text from outside is
// in a field, or quoted and shortened in an error. The key is sent only in the Authorization header
// of requests to the base URL. No error, and no way to print a Client, shows it.
//
// A Client is safe for concurrent use.
package sikkerapi
